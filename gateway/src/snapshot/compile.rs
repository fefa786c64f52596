//! From a checked configuration to a snapshot. Cannot fail: what could is a problem found by `config::load`.

use std::collections::HashMap;
use std::sync::Arc;

use super::{
    Eject, HostPolicy, Listener, Mirror, PoolSettings, Route, RouteTimeouts, Settings, Snapshot, Upstream,
    UpstreamLimits, UpstreamTimeouts,
};
use crate::balance::{Destination, Endpoints, Subsets};
use crate::config::model::{self, Config, PathRule, SlashRule, Upgrade};
use crate::config::units::{Percentage, Time};
use crate::filter::{self, Making};
use crate::lists::{Gate, Lists};
use crate::observe::metrics::Metrics;
use crate::proxy::error_page::ErrorPage;
use crate::proxy::retry::Retry;
use crate::route::action::Action;
use crate::route::{Matcher, RouteTable};
use crate::rt::deadline::ms;
use crate::tables::health::Thresholds;
use crate::tables::health::rates::{FailurePercentage, Failures, RateRules, SuccessRate};
use crate::tables::health::record::EjectionTimes;
use crate::tls::Tls;

/// Compiles `config`. Series are found in `metrics` by name, so counters live on over reloads. Listeners stand in the order
/// they are written; no upstream has endpoints yet: they are resolved apart, because that waits, and with them comes the load that
/// lives on over reloads.
pub fn compile(config: &Config, lists: &Arc<Lists>, tls: &Arc<Tls>, metrics: &Metrics) -> Snapshot {
    let subsets = Subsets::of(config);
    let upstreams: Vec<Upstream> = config
        .upstream
        .iter()
        .map(|(name, upstream)| Upstream {
            name: name.clone(),
            host: match upstream.host.as_deref() {
                None | Some("keep") => HostPolicy::Keep,
                Some("endpoint") => HostPolicy::Endpoint,
                Some(fixed) => HostPolicy::Fixed(fixed.to_owned()),
            },
            timeouts: UpstreamTimeouts {
                connect: ms(upstream.timeout.connect.into()),
                first_byte: ms(upstream.timeout.first_byte.into()),
                idle: ms(upstream.timeout.idle.into()),
                total: ms(upstream.timeout.total.into()),
            },
            pool: PoolSettings {
                idle_max: upstream.pool.idle_max as usize,
                streams_max: upstream.pool.streams_max,
                idle_ms: ms(upstream.pool.idle.into()),
                age_ms: ms(upstream.pool.age.into()),
            },
            eject: upstream.eject.as_ref().map(eject),
            retry: upstream.retry.as_ref().map(Retry::of),
            limits: UpstreamLimits {
                requests_max: upstream.limits.requests_max,
                endpoint_requests_max: upstream.limits.endpoint_requests_max,
            },
            subsets: subsets.of_upstream(name).to_vec(),
            series: metrics.upstream(name),
        })
        .collect();
    let table = RouteTable::new(routes(config, lists, metrics));
    let limits = &config.limits;
    let timeouts = &config.timeouts;
    let settings = Settings {
        connections_max: limits.connections.unwrap_or_else(connections_default),
        connections_per_address_max: limits.connections_per_address,
        head_bytes: limits.head_bytes.0 as usize,
        fields: limits.fields as usize,
        requests_per_connection: limits.requests_per_connection,
        http2_streams: limits.http2_streams,
        rate_min: limits.rate_min.0,
        head_ms: ms(timeouts.head.into()),
        tls_handshake_ms: ms(timeouts.tls_handshake.into()),
        body_idle_ms: ms(timeouts.body_idle.into()),
        keep_alive_ms: ms(timeouts.keep_alive.into()),
        connection_age_ms: ms(timeouts.connection_age.into()),
        tunnel_idle_ms: ms(timeouts.tunnel_idle.into()),
        tunnel_age_ms: ms(timeouts.tunnel_age.into()),
        trusted_hops: config.gateway.trusted_hops.clone(),
        forwarded: config.gateway.forwarded,
        errors: config.error.iter().map(ErrorPage::of).collect(),
        via: ["1.0", "1.1", "2"]
            .map(|version| format!("{version} {}", config.gateway.via.as_deref().unwrap_or("bawab"))),
    };
    let listeners = config
        .listener
        .iter()
        .enumerate()
        .map(|(index, listener)| {
            Arc::new(Listener {
                name: listener.name.clone().unwrap_or_else(|| listener.address.clone()),
                client_address: listener.client_address,
                underscores: listener.underscores,
                tls: tls.listeners.get(index).cloned().flatten(),
                http2: listener.http2,
                gate: Arc::new(lists.gate(&listener.deny, &listener.allow)),
                closed: Arc::default(),
            })
        })
        .collect();
    Snapshot {
        settings: Arc::new(settings),
        lists: lists.clone(),
        tls: tls.clone(),
        listeners: Arc::new(listeners),
        routes: Arc::new(table),
        endpoints: upstreams.iter().map(|_| Arc::new(Endpoints::default())).collect(),
        loads: upstreams.iter().map(|_| Arc::default()).collect(),
        upstreams: Arc::new(upstreams),
    }
}

/// The longest ejection, unless it is written.
const EJECTION_MAX: Time = Time::from_secs(300);

fn eject(written: &model::Eject) -> Eject {
    Eject {
        thresholds: Thresholds {
            any_5xx: written.consecutive_5xx,
            gateway: written.consecutive_gateway,
            local: written.consecutive_local,
        },
        rates: rates(written),
        times: EjectionTimes {
            base: written.base.into(),
            max: written.max.unwrap_or(EJECTION_MAX.max(written.base)).into(),
        },
        share_max: written.share_max.millionths(),
    }
}

fn rates(written: &model::Eject) -> Option<RateRules> {
    if written.success_rate.is_none() && written.failure_percentage.is_none() {
        return None;
    }
    let share = |percentage: Percentage| f64::from(percentage.millionths()) / 1e6;
    Some(RateRules {
        interval: written.interval.into(),
        failures: match written.failures {
            model::EjectFailures::Any5xx => Failures::Any5xx,
            model::EjectFailures::Gateway => Failures::Gateway,
            model::EjectFailures::Local => Failures::Local,
        },
        success_rate: written.success_rate.as_ref().map(|rate| SuccessRate {
            factor: rate.factor,
            below_min: share(rate.below_min),
            endpoints_min: usize::from(rate.endpoints_min),
            attempts_min: rate.requests_min,
        }),
        failure_percentage: written.failure_percentage.as_ref().map(|percentage| FailurePercentage {
            threshold: share(percentage.threshold),
            endpoints_min: usize::from(percentage.endpoints_min),
            attempts_min: percentage.requests_min,
        }),
    })
}

/// Compiles every route of `config`, each with what it takes.
pub fn routes(config: &Config, lists: &Lists, metrics: &Metrics) -> Vec<(Matcher, Route)> {
    let indices: HashMap<&str, usize> =
        config.upstream.keys().enumerate().map(|(at, name)| (name.as_str(), at)).collect();
    let subsets = Subsets::of(config);
    let to = |name: &str, subset: Option<&model::Subset>| Destination {
        upstream: indices[name],
        subset: subsets.number(name, subset),
    };
    let names: Vec<String> = config.route.iter().map(model::Route::name).collect();
    // Most routes turn nobody away.
    let open: Arc<Gate> = Arc::default();
    let series = metrics.routes_of(names.iter().map(String::as_str));
    let compiled = config.route.iter().zip(names.iter().zip(series)).map(|(written, (name, series))| {
        let matcher = Matcher::of(written);
        let gate = match written.deny.is_empty() && written.allow.is_empty() {
            true => open.clone(),
            false => Arc::new(lists.gate(&written.deny, &written.allow)),
        };
        let route = Route {
            pattern: matcher.path.clone(),
            action: Action::of(written, to),
            timeouts: RouteTimeouts {
                first_byte: written.timeout.first_byte.map(|time| ms(time.into())),
                idle: written.timeout.idle.map(|time| ms(time.into())),
                total: written.timeout.total.map(|time| ms(time.into())),
            },
            retry: written.retry.as_ref().map(Retry::of),
            mirrors: written
                .mirror
                .iter()
                .map(|mirror| Mirror {
                    to: to(&mirror.upstream, mirror.subset.as_ref()),
                    share: mirror.percentage.millionths(),
                    body_bytes_max: mirror.body_bytes.0 as usize,
                })
                .collect(),
            errors: written.error.iter().map(ErrorPage::of).collect(),
            chain: filter::compile(&Making { route: written, gate: &gate }),
            gate,
            body_bytes_max: written.body_bytes.unwrap_or(config.limits.body_bytes).0,
            path_policy: http1::PathPolicy {
                encoded_slash: rule(written.path_policy.encoded_slash),
                backslash: rule(written.path_policy.backslash),
                semicolon: rule(written.path_policy.semicolon),
                refuse_double_slash: written.path_policy.double_slash == SlashRule::Refuse,
            },
            websocket: written.upgrade.contains(&Upgrade::Websocket),
            series,
            name: name.clone(),
        };
        (matcher, route)
    });
    compiled.collect()
}

/// Each client may need a connection to a service, and the rest of the process some more: a third of the descriptors.
pub fn connections_default() -> u32 {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    u32::try_from(descriptors / 3).unwrap_or(u32::MAX).clamp(1, 50_000)
}

fn rule(rule: PathRule) -> http1::Rule {
    match rule {
        PathRule::Refuse => http1::Rule::Refuse,
        PathRule::Keep => http1::Rule::Keep,
        PathRule::Decode => http1::Rule::Decode,
    }
}
