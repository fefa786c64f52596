//! What the admin listener says and does about address lists: the doors in the kernel, bans, and why an address is treated as
//! it is.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use abi::Action;
use axum::Json;
use axum::extract::{Query, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::sync::oneshot;

use super::{Command, Reloaded, State, from_a_page, problem, reloaded};
use crate::config::model::ClientAddress;
use crate::config::units::Time;
use crate::control::safety;
use crate::explain::ip;
use crate::limits::BAN_MS_MAX;
use crate::observe::doors::DoorStatus;
use crate::observe::reloads::Outcome;
use crate::observe::rfc3339;
use crate::tables::bans::{Ban, key, unix_ms};

/// The pairs of a query.
pub(super) type Pairs = Query<Vec<(String, String)>>;

pub(super) fn first<'a>(pairs: &'a [(String, String)], wanted: &str) -> Option<&'a str> {
    pairs.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
}

pub(super) fn wants_text(pairs: &[(String, String)]) -> bool {
    first(pairs, "format") == Some("text")
}

pub(super) fn bad(why: &str) -> Response {
    problem(StatusCode::BAD_REQUEST, "question", why)
}

/// How the doors stand.
pub(super) async fn status(Shared(state): Shared<State>, Query(pairs): Pairs) -> Response {
    let doors = state.doors.status();
    if wants_text(&pairs) {
        return text_of(&doors).into_response();
    }
    let bans = state.bans.count();
    Json(json!({ "doors": doors, "bans": bans })).into_response()
}

fn text_of(doors: &[DoorStatus]) -> String {
    let mut out = String::new();
    if doors.is_empty() {
        out.push_str("no interface has a door: the configuration has no `[xdp]`, or its mode is off\n");
    }
    for door in doors {
        // Writing to memory does not fail.
        let _ = match (&door.mode, &door.why) {
            (Some(mode), _) => {
                writeln!(out, "{}: attached, {mode}{}", door.interface, if door.bypass { ", BYPASSED" } else { "" })
            }
            (None, why) => writeln!(out, "{}: NOT attached: {}", door.interface, why.as_deref().unwrap_or("?")),
        };
        if door.mode.is_none() {
            continue;
        }
        let _ = writeln!(out, "  lists {} with {} entries, {} bans", door.generation, door.entries, door.bans);
        for (name, packets) in door.packets.iter().filter(|(_, packets)| *packets > 0) {
            let _ = writeln!(out, "  {name:<16}{packets:>14} packets");
        }
        for list in &door.lists {
            let _ = match list.shadow {
                true => writeln!(
                    out,
                    "  list {:<11}{:>14} packets would have been dropped, of {} sampled sources",
                    list.list, list.packets, list.sources
                ),
                false => writeln!(out, "  list {:<11}{:>14} packets, {} bytes", list.list, list.packets, list.bytes),
            };
        }
        for (source, samples) in &door.sources {
            let _ = writeln!(out, "  source {source:<30}{samples:>8} samples");
        }
    }
    out
}

/// Loads the configuration again, and brings the one before back unless somebody confirms in time.
pub(super) async fn apply(Shared(state): Shared<State>, headers: HeaderMap, Query(pairs): Pairs) -> Response {
    if from_a_page(&headers) {
        return problem(StatusCode::FORBIDDEN, "cross_origin", "this is not for web pages");
    }
    let confirm = match first(&pairs, "confirm").map(str::parse::<Time>) {
        None => None,
        Some(Ok(time)) if time.0 >= Duration::from_secs(5) && time.0 <= Duration::from_secs(3600) => Some(time.0),
        Some(_) => return bad("`confirm` is a time from 5s to 1h"),
    };
    let (reply, replied) = oneshot::channel();
    if state.commands.try_send(Command::Apply { confirm, reply }).is_err() {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "busy", "too much is asked at once; try again");
    }
    match replied.await {
        Ok(outcome) if wants_text(&pairs) && outcome.outcome != Outcome::Failed => {
            text_of_apply(&outcome, confirm).into_response()
        }
        Ok(outcome) => reloaded(&state, outcome),
        Err(_) => {
            problem(StatusCode::SERVICE_UNAVAILABLE, "busy", "a reload is running or the gateway stops; try again")
        }
    }
}

/// What became of it, for a person; `asked`: the time within which they wanted to confirm.
fn text_of_apply(reloaded: &Reloaded, asked: Option<Duration>) -> String {
    let applied = reloaded.outcome == Outcome::Applied;
    let done = if applied { "applied" } else { "unchanged: this is what runs already" };
    match (reloaded.confirm, asked) {
        (Some(time), _) => {
            format!("{done}; what ran before is back after {} unless `bawab xdp confirm` comes first\n", Time(time))
        }
        // Another reload came in between.
        (None, Some(_)) if applied => format!("{done}; nothing waits for a confirmation\n"),
        // Whoever edits a file that is watched is too late with the question.
        (None, Some(_)) => format!(
            "{done}; nothing waits for a confirmation. Files that change are loaded by themselves, and then are meant: \
             `gateway.watch = false` leaves it to you\n"
        ),
        (None, None) => format!("{done}\n"),
    }
}

/// Keeps what was applied.
pub(super) async fn confirm(Shared(state): Shared<State>, headers: HeaderMap, Query(pairs): Pairs) -> Response {
    if from_a_page(&headers) {
        return problem(StatusCode::FORBIDDEN, "cross_origin", "this is not for web pages");
    }
    let (reply, replied) = oneshot::channel();
    let sent = state.commands.try_send(Command::Confirm(reply)).is_ok();
    match replied.await {
        Ok(true) if sent && wants_text(&pairs) => "confirmed: it stays\n".into_response(),
        Ok(true) if sent => Json(json!({ "confirmed": true })).into_response(),
        Ok(_) => problem(
            StatusCode::CONFLICT,
            "nothing_to_confirm",
            "nothing waits for a confirmation: it was taken back already, or never asked for",
        ),
        Err(_) => problem(StatusCode::SERVICE_UNAVAILABLE, "busy", "too much is asked at once; try again"),
    }
}

/// Every ban.
pub(super) async fn bans(Shared(state): Shared<State>, Query(pairs): Pairs) -> Response {
    let now = unix_ms();
    let list = state.bans.list(now);
    if wants_text(&pairs) {
        let mut out = String::new();
        for (client, ban) in &list {
            let left = Time(Duration::from_secs(ban.until_ms.saturating_sub(now).div_ceil(1000)));
            let _ = writeln!(out, "{client:<40} {left:>8}  {}", ban.reason);
        }
        if list.is_empty() {
            out.push_str("nobody is banned\n");
        }
        return out.into_response();
    }
    let bans: Vec<serde_json::Value> = list
        .into_iter()
        .map(|(client, ban)| {
            let until = std::time::UNIX_EPOCH + Duration::from_millis(ban.until_ms);
            json!({ "client": client, "until": rfc3339::text(until), "reason": ban.reason })
        })
        .collect();
    Json(json!({ "bans": bans })).into_response()
}

/// Bans a client for a time.
pub(super) async fn ban(Shared(state): Shared<State>, headers: HeaderMap, Query(pairs): Pairs) -> Response {
    if from_a_page(&headers) {
        return problem(StatusCode::FORBIDDEN, "cross_origin", "this is not for web pages");
    }
    let Some(Ok(client)) = first(&pairs, "address").map(str::parse::<IpAddr>) else {
        return bad("say `address`, an IP address");
    };
    let time = match first(&pairs, "for").unwrap_or("1h").parse::<Time>() {
        Ok(time) if !time.0.is_zero() && time.0.as_millis() <= u128::from(BAN_MS_MAX) => time.0,
        _ => return bad("`for` is a time above 0 and at most a year; who is meant for ever belongs on a list"),
    };
    let reason: String =
        first(&pairs, "reason").unwrap_or("by hand").chars().filter(|char| !char.is_control()).take(200).collect();
    let snapshot = (state.snapshot)();
    let refuse = |code: &str, why: String| problem(StatusCode::CONFLICT, code, &why);
    let standing = snapshot.lists.standing(client);
    let list = snapshot.lists.rule(standing.rule).map_or("", |rule| &rule.list);
    match standing.action {
        Action::Manage => return refuse("managed", format!("{client} is in `xdp.manage`, which goes before bans")),
        Action::Exempt => return refuse("exempt", format!("{client} is exempt by `list.{list}`")),
        Action::Deny | Action::Pass => {}
    }
    // What is banned is all that one client can have: for IPv6 a /64, which may hold others.
    let within = |address: IpAddr| key(address) == key(client);
    if snapshot.settings.trusted_hops.iter().any(|hop| hop.contains(&client.to_canonical()) || within(hop.addr())) {
        let why = format!("{client} is one of `gateway.trusted_hops`: all that comes through it would be banned");
        return refuse("trusted_hop", why);
    }
    // By every listener's rule user space bans clients alone; the kernel bans whoever has the address.
    if let Some((address, what)) = safety::protected(&snapshot).into_iter().find(|(address, _)| within(*address)) {
        return refuse("protected", format!("{address} is {what}: it would be cut off"));
    }
    let until_ms = unix_ms() + time.as_millis() as u64;
    if state.bans.ban(client, Ban { until_ms, reason: reason.into() }).is_err() {
        return refuse("bans_full", "no more addresses can be banned".to_owned());
    }
    tracing::info!(%client, ?time, "banned by hand");
    // Where every listener learns its clients from a field or a PROXY header, an address in a packet is somebody else's.
    let by_peer = snapshot.listeners.iter().any(|listener| listener.client_address == ClientAddress::Peer);
    let interfaces = match by_peer {
        true => state.doors.ban(client, time).await.unwrap_or_default(),
        false => Vec::new(),
    };
    if wants_text(&pairs) {
        let kernel = match &interfaces[..] {
            [] => "in user space".to_owned(),
            interfaces => format!("in user space, and in the kernel on every port of {}", interfaces.join(", ")),
        };
        return format!("{} is banned for {}, {kernel}\n", key(client), Time(time)).into_response();
    }
    Json(json!({ "client": key(client), "until_unix_ms": until_ms, "interfaces": interfaces })).into_response()
}

/// Ends a ban.
pub(super) async fn unban(Shared(state): Shared<State>, headers: HeaderMap, Query(pairs): Pairs) -> Response {
    if from_a_page(&headers) {
        return problem(StatusCode::FORBIDDEN, "cross_origin", "this is not for web pages");
    }
    let Some(Ok(client)) = first(&pairs, "address").map(str::parse::<IpAddr>) else {
        return bad("say `address`, an IP address");
    };
    let found = state.bans.unban(client);
    // Gone with its thread, the kernel is nobody's to tell.
    let _ = state.doors.unban(client).await;
    match found {
        true if wants_text(&pairs) => format!("{} is banned no more\n", key(client)).into_response(),
        true => Json(json!({ "client": key(client), "banned": false })).into_response(),
        false => problem(StatusCode::NOT_FOUND, "not_banned", "this address is not banned"),
    }
}

/// Why an address is treated as it is, on every tier.
pub(super) async fn explain(Shared(state): Shared<State>, Query(pairs): Pairs) -> Response {
    let Some(Ok(client)) = first(&pairs, "address").map(str::parse::<IpAddr>) else {
        return bad("say `address`, an IP address");
    };
    let now = unix_ms();
    let ban = state.bans.find(client, now).map(|ban| (Duration::from_millis(ban.until_ms - now), ban.reason));
    let snapshot = (state.snapshot)();
    // It may read a list of a million lines again.
    let Ok(mut answer) = tokio::task::spawn_blocking(move || ip::explain(&snapshot, client, ban)).await else {
        return problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the explanation failed by a mistake of the gateway's",
        );
    };
    answer.since = state.since().map(rfc3339::text);
    answer.doors =
        state.doors.status().into_iter().filter(|door| door.mode.is_some()).map(|door| door.interface).collect();
    match wants_text(&pairs) {
        true => answer.text().into_response(),
        false => Json(answer).into_response(),
    }
}
