//! Answers of our own: problem+json (RFC 9457).

use bytes::Bytes;

use super::head::ResponseHead;
use super::trace::RequestId;
use crate::refusal::Refusal;

/// The methods a path does take, for 405; left in the exchange by the router.
#[derive(Default)]
pub struct Allow(pub String);

/// Seconds after which the client may come again; left in the exchange by who refuses.
pub struct RetryAfter(pub u64);

/// Seconds after which to come again when nobody knows better.
pub const RETRY_AFTER_S: u64 = 1;

/// The answer to a refusal. `retry_after`: seconds, said with 503.
pub fn problem(
    refusal: Refusal,
    request_id: &RequestId,
    allow: Option<Allow>,
    retry_after: u64,
) -> (ResponseHead, Bytes) {
    let status = refusal.status();
    let mut head = ResponseHead::new(status);
    let fields = &mut head.fields;
    fields.add(b"content-type", b"application/problem+json");
    // An error of ours says something about this moment.
    fields.add(b"cache-control", b"no-store");
    fields.add(b"x-request-id", request_id.as_bytes());
    if let Some(Allow(methods)) = allow {
        fields.add(b"allow", methods.as_bytes());
    }
    if status == 503 {
        fields.add(b"retry-after", itoa::Buffer::new().format(retry_after).as_bytes());
    }
    // Every text here is ours or was checked to be printable without quotes: nothing needs escaping.
    let body = format!(
        "{{\"type\":\"about:blank\",\"title\":\"{}\",\"status\":{status},\"detail\":\"{}\",\"code\":\"{}\",\"request_id\":\"{}\",\"ended_by\":\"{}\"}}\n",
        http1::encode::reason(status),
        refusal.detail(),
        refusal.code(),
        String::from_utf8_lossy(request_id.as_bytes()),
        refusal.party().name(),
    );
    (head, Bytes::from(body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::trace::Ids;

    #[test]
    fn every_refusal_is_valid_json_with_its_code() {
        let id = RequestId::made(&mut Ids::new().expect("seed"));
        for &fault in http1::Fault::ALL {
            let (head, body) = problem(Refusal::Malformed(fault), &id, None, RETRY_AFTER_S);
            let value: serde_json::Value = serde_json::from_slice(&body).expect("json");
            assert_eq!(value["code"], fault.code());
            assert_eq!(value["status"], head.status);
        }
    }
}
