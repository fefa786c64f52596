//! Every bound of the gateway that no operator sets, with its reason. Hitting one is a refusal and a counter.

/// Bytes a pooled buffer offers to one read. 64 KiB is where larger reads stop paying on loopback, and what a relay of
/// large bodies needs to stay beside haproxy.
pub const BUFFER_BYTES: usize = 64 * 1024;

/// Free bytes in front of a fresh buffer's window: a rebuilt response head goes there, so head and body leave in one
/// write. Rebuilding adds `Via` and little else to a head that was there already; 1 KiB also takes some header edits.
pub const BUFFER_HEADROOM: usize = 1024;

/// Free bytes behind a full window: the end of a chunk, the last chunk and its empty trailers (`\r\n0\r\n\r\n`).
pub const BUFFER_TAILROOM: usize = 64;

/// Free buffers a worker keeps while they come and go: two for each of 512 exchanges at a time. Memory from the allocator
/// is cold, and at the 64 KiB of one buffer a good part of what a request costs.
pub const BUFFERS_FREE_MAX: usize = 1024;

/// Free buffers a worker keeps that it has not needed for a while: 16 MiB.
pub const BUFFERS_FREE_KEPT: usize = 256;

const _: () = assert!(BUFFERS_FREE_KEPT <= BUFFERS_FREE_MAX);

/// RFC 9110 §5.4 sets no bound; one pooled read must hold a whole head.
pub const HEAD_BYTES_MAX: usize = BUFFER_BYTES;

/// Most fields a head may be configured to have.
pub const FIELDS_MAX: usize = 1000;

/// Bytes of a head we receive from an upstream. Services are configured beside us and may set many cookies.
pub const RESPONSE_HEAD_BYTES_MAX: usize = HEAD_BYTES_MAX;

/// Fields of a head we receive from an upstream.
pub const RESPONSE_FIELDS_MAX: usize = 256;

/// The first read of a request takes no more than this, so that what must be copied out of the head's buffer (the
/// beginning of a body) stays small.
pub const HEAD_READ_BYTES: usize = 16 * 1024;

/// Bytes of chunk extensions on one chunk line. We drop them; nobody is known to send long ones.
pub const CHUNK_EXTENSION_BYTES_MAX: usize = 256;

/// Bytes of a trailer section.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// Fields of a trailer section.
pub const TRAILER_FIELDS_MAX: usize = 32;

/// Interim (1xx) answers of one exchange that are forwarded; one more and the upstream is taken for broken.
pub const INTERIM_MAX: u32 = 16;

/// Milliseconds between two sweeps of a worker's deadlines: the most a deadline is late beside a busy turn.
pub const TICK_MS: u64 = 50;

/// Sockets shut down in one sweep before the other tasks get a turn. One costs about 5 µs.
pub const CUTS_PER_TURN: usize = 128;

/// Waiting exchanges whose client is checked for a hang-up in one sweep, round robin.
pub const HANGUP_POLLS_PER_TICK: usize = 1024;

/// Milliseconds between the last SYN a listening socket takes and its end: what a handshake needs over a long way.
pub const LAST_HANDSHAKES_MS: u64 = 200;

/// Milliseconds a client connection must have been quiet to be closed while its worker drains. A client that asked less long
/// ago may be asking again this very moment; its next answer says that the connection closes.
pub const DRAIN_QUIET_MS: u64 = 1_000;

/// Entries of a worker's submission ring. More operations in one turn are submitted in several system calls.
pub const RING_ENTRIES: u32 = 4096;

/// Connections a listening socket queues. The kernel cuts this to `net.core.somaxconn`.
pub const ACCEPT_BACKLOG: i32 = 4096;

/// Messages one worker's mailbox holds; a full one is a defined answer at the sender.
pub const MAILBOX_MAX: usize = 1024;

/// Jobs queued for the offload pool; a full queue is answered with 503 `overloaded`.
pub const OFFLOAD_QUEUE_MAX: usize = 256;

/// Threads of the offload pool.
pub const OFFLOAD_THREADS: usize = 2;

/// Milliseconds an offloaded job may take, queue included, before its exchange is answered with 503 `overloaded`.
pub const OFFLOAD_WAIT_MS: u64 = 5_000;

/// Milliseconds a filter may delay an exchange in all.
pub const DELAY_MS_MAX: u64 = 60_000;

/// Bytes of a subrequest's answer kept for a filter.
pub const SUBREQUEST_BODY_BYTES_MAX: usize = 1024 * 1024;

/// Times one filter may ask for another effect in one exchange. A filter that never decides is a bug, answered with 500.
pub const EFFECTS_PER_FILTER_MAX: u32 = 8;

/// Endpoints that are not in use and whose state is still kept: they may come back.
pub const ENDPOINT_STATES_SPARE_MAX: usize = 4096;

/// What workers may have told the control side of failing endpoints before it looks. One more is lost, and counted: the endpoint
/// is told of again when as many attempts have failed once more.
pub const NOTICES_MAX: usize = 256;

/// Health checks that run at one time.
pub const CHECKS_MAX: usize = 64;

/// Bytes of the answer to a health check that are read; its head must be among them.
pub const CHECK_ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Milliseconds the rest of an answer to a health check is waited for: a service that is hung up on says so in its log.
pub const CHECK_REST_MS: u64 = 100;

/// Upstreams that are configured no more and whose load is still kept: their requests may still run.
pub const LOADS_SPARE_MAX: usize = 1024;

/// Repetitions a budget saves while nothing fails: what may come at once when a service begins to fail, beside what the
/// requests of that moment bring.
pub const RETRIES_SAVED_MAX: u32 = 100;

/// Endpoints that are asked whether they take one more request before it is refused.
pub const ENDPOINT_PICKS_MAX: usize = 32;

/// Subsets of one upstream's endpoints that routes may ask for: each has its turns or its table of keys.
pub const SUBSETS_PER_UPSTREAM_MAX: usize = 256;

const _: () = assert!(SUBSETS_PER_UPSTREAM_MAX < u16::MAX as usize);

/// Copies of requests that one worker has on their way to other upstreams; each may hold a body. One more is not sent.
pub const MIRRORS_PER_WORKER_MAX: u32 = 128;

/// Bytes of request body a filter may ask to see.
pub const BODY_COLLECT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Milliseconds a body may be slow before its rate counts.
pub const RATE_GRACE_MS: u64 = 5_000;

/// Milliseconds we go on reading what a client sends after an answer that ended its connection early, so that the answer
/// is not lost to a reset (RFC 9112 §9.6).
pub const LINGER_MS: u64 = 2_000;

/// Bytes read and dropped while lingering.
pub const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// Endpoints an exchange tries to connect to before it gives up. Nothing was sent to one that refused, so trying another
/// is safe for any request.
pub const CONNECT_ATTEMPTS_MAX: u32 = 3;

/// Bytes of a body kept to be sent again when a kept connection turns out to be closed.
pub const BODY_HELD_FOR_RETRY_BYTES: usize = 16 * 1024;

/// Regular expressions in one `cors` table: each is tried until one matches.
pub const ORIGIN_REGEXES_MAX: usize = 32;

/// Origins in one `cors` table.
pub const ORIGINS_MAX: usize = 1000;

/// Answers a worker compresses at one time; one more goes as it is. A coder takes up to 2 MiB.
pub const COMPRESSORS_MAX: usize = 128;

/// Bytes that are compressed in one step; between two of them the worker's other tasks run. About 0.5 ms at the slowest level.
pub const COMPRESSION_STEP_BYTES: usize = 16 * 1024;

/// How far back a coder looks, as a power of two: 256 KiB. More costs memory for little with what APIs answer.
pub const COMPRESSION_WINDOW_LOG: u32 = 18;

/// Bytes of a body decoded in one step.
pub const DECODE_STEP_BYTES: usize = 32 * 1024;

/// Steps a body may be decoded without a turn for the worker's other tasks: some 0.3 ms.
pub const DECODE_STEPS_PER_TURN: u32 = 4;

/// Bytes a decoded body may have before its ratio counts: small texts of few words are dense and do no harm.
pub const DECODED_BYTES_FREE: u64 = 64 * 1024;

/// How far back a zstd body may look, as a power of two: the 8 MiB that RFC 9659 lets HTTP use.
pub const DECODING_WINDOW_LOG: u32 = 23;

/// Bytes that all decoders of a worker may need at one time; one more body is refused with 503 `overloaded`. 4096 of gzip,
/// 60 of zstd or 31 of brotli, which mostly need far less.
pub const DECODERS_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Parts a coded body may be put together from: each costs a fresh start.
pub const CODED_MEMBERS_MAX: u32 = 128;

/// Bytes of a request id accepted from a trusted hop.
pub const REQUEST_ID_BYTES_MAX: usize = 64;

const _: () = assert!(HEAD_READ_BYTES <= BUFFER_BYTES);
const _: () = assert!(HEAD_BYTES_MAX <= BUFFER_BYTES);
const _: () = assert!(RESPONSE_HEAD_BYTES_MAX <= BUFFER_BYTES);
const _: () = assert!(BUFFER_TAILROOM >= b"\r\n0\r\n\r\n".len());
const _: () = assert!(BUFFER_HEADROOM >= 20, "a chunk line fits in front of a body piece");

// --- HTTP/2 ----------------------------------------------------------------------------------------

/// Bytes of request body a client may send on a stream before any of it was passed on; RFC 9113 §6.9.2 begins with it.
pub const HTTP2_STREAM_WINDOW_BYTES: u32 = 64 * 1024;

/// The same for all streams of a connection: sixteen uploads at full speed.
pub const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// Bytes of an answer that wait to be written, for each stream; beyond, its service is not read.
pub const HTTP2_SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Streams a client has reset that nobody has begun to answer: one more ends the connection.
pub const HTTP2_PENDING_RESETS_MAX: usize = 20;

/// Streams we have reset whose late frames are still let pass.
pub const HTTP2_RESETS_REMEMBERED_MAX: usize = 64;

/// Milliseconds a stream we have reset is remembered.
pub const HTTP2_RESET_MEMORY_MS: u64 = 1_000;

/// Streams we have reset for what the client did on them (CVE-2025-8671): one more ends the connection.
pub const HTTP2_LOCAL_RESETS_MAX: usize = 256;

/// Milliseconds of silence after which the peer of a running exchange is asked for a sign of life, and again until it is
/// taken for gone.
pub const HTTP2_PING_MS: u64 = 20_000;

/// Milliseconds between two pings to a service that has begun no answer meanwhile. Servers of gRPC take what comes more often than
/// every five minutes for a flood and end the connection (its proposal A8); an answer of theirs begins the count anew.
pub const HTTP2_PINGS_APART_MS: u64 = 310_000;

const _: () = assert!(HTTP2_PING_MS < HTTP2_PINGS_APART_MS);

/// Requests of one connection that are begun before the worker's other tasks get a turn.
pub const HTTP2_REQUESTS_PER_TURN: u32 = 32;

/// Tasks a worker keeps that have no stream to serve, until they were not needed for ten seconds. Some 6 KiB each.
pub const STREAM_TASKS_KEPT_MAX: usize = 512;

/// Points of a connection: what its frames may cost that bring nothing (`proxy::h2::meter`). 400 resets or 800 pings at once.
pub const HTTP2_POINTS_MAX: u32 = 4_000;

/// Points that come back in a second: 40 resets or 80 pings.
pub const HTTP2_POINTS_PER_SECOND: u32 = 400;

/// Connections a worker opens to one endpoint that speaks HTTP/2; what finds no room on them waits on the least busy one.
pub const HTTP2_UPSTREAM_CONNECTIONS_MAX: usize = 32;

const _: () = assert!(HTTP2_STREAM_WINDOW_BYTES <= HTTP2_CONNECTION_WINDOW_BYTES);

// --- routes ----------------------------------------------------------------------------------------

/// Segments of a path pattern. Paths of services are seldom a third as deep; a lookup goes no deeper than patterns do.
pub const PATTERN_SEGMENTS_MAX: usize = 32;

/// Bytes of a capture's name: it is typed by hand.
pub const PATTERN_NAME_BYTES_MAX: usize = 32;

/// Bytes of a regular expression an operator writes.
pub const REGEX_BYTES_MAX: usize = 1024;

/// Memory a compiled regular expression may take, and its cache again. Matching is linear in any case; this bounds what a
/// repetition of repetitions blows up to.
pub const REGEX_COMPILED_BYTES_MAX: usize = 1024 * 1024;

/// Regular expressions of one host: each request to it is compared with all of them.
pub const REGEX_ROUTES_PER_HOST_MAX: usize = 100;

/// Pairs of routes that are compared when a configuration is loaded, to find those that tie or never match: about a second.
pub const ROUTE_PAIRS_MAX: usize = 10_000_000;

// --- address lists ---------------------------------------------------------------------------------

/// Addresses and prefixes in all lists together. Four million take some 150 MiB while they are compiled.
pub const LIST_ENTRIES_MAX: usize = 4_000_000;

/// Bytes of a line of a list; an address with a comment has a hundred.
pub const LIST_LINE_BYTES_MAX: usize = 4096;

/// Addresses that are banned at one time; as many as the kernel's table holds.
pub const BANS_MAX: usize = 1 << 18;
const _: () = assert!(BANS_MAX == abi::door::BANS_MAX as usize);

/// Milliseconds of the longest ban: a year. What is meant for ever is a list.
pub const BAN_MS_MAX: u64 = 366 * 24 * 3_600_000;

/// Bytes of a file with a certificate or a key. A chain of four with RSA keys is 8 KiB; what is larger is another file.
pub const CERTIFICATE_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// TLS handshakes of one core at a time, from a client's first byte on. Beyond, the oldest one ends: whoever means it is done in
/// a few round trips, and who only begins must not keep others out.
pub const HANDSHAKES_MAX: usize = 1000;

/// Bytes of a file with revocation lists: some 400,000 certificates. More would be slow to read again with every change.
pub const REVOCATION_FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Bytes of a client certificate's names as they are passed on: what a service takes in one field with room for others. One with
/// more does not come in: cut, it would be somebody else's.
pub const CLIENT_CERTIFICATE_TEXT_BYTES_MAX: usize = 4 * 1024;

/// Tickets of services that are kept for the settings of an upstream: of 64 names, eight each. What is beyond shakes hands anew. A
/// ticket is some 2 KiB with the service's certificates.
pub const SERVICE_TICKETS_MAX: usize = 512;

/// Bytes of what is told about a handshake with a service that failed: a certificate may be for a thousand names.
pub const TLS_DETAIL_BYTES_MAX: usize = 400;

/// Seconds a ticket is good whose key comes from a file: as long as those of rustls.
pub const TICKET_AGE_S_MAX: u64 = 12 * 3600;

/// Seconds the clocks of a fleet may differ.
pub const TICKET_SKEW_S_MAX: u64 = 300;

/// Bytes behind the fixed part of a PROXY header of version 2. Addresses take at most 216; what load balancers add is a name, an
/// identifier and what was agreed on in TLS, with a client's certificate some 2 KiB.
pub const PROXY_PAYLOAD_BYTES_MAX: usize = 4096;
const _: () = assert!(PROXY_PAYLOAD_BYTES_MAX + 16 <= HEAD_READ_BYTES, "a whole header fits in one read");

// --- names -----------------------------------------------------------------------------------------

/// Questions to DNS servers that are under way at one time. More wait: a server that gets hundreds at once drops some.
pub const DNS_QUESTIONS_MAX: usize = 32;

/// Addresses of one name that are used. More would not fit an answer of 64 KiB by much; those of the first priorities are kept.
pub const DNS_ADDRESSES_MAX: usize = 1024;

/// Hosts of one name's SRV records that are looked up.
pub const DNS_TARGETS_MAX: usize = 256;

/// Aliases (CNAME) between a name and its addresses. A loop ends here.
pub const DNS_ALIASES_MAX: usize = 16;

/// How often in a row a name with addresses must be said not to exist before they are gone by no more.
pub const DNS_DENIALS: u32 = 3;

/// Milliseconds of the first pause after a look-up has failed. It doubles with each further failure.
pub const DNS_RETRY_MS: u64 = 1_000;

/// Milliseconds of the longest such pause.
pub const DNS_RETRY_MS_MAX: u64 = 30_000;

/// Milliseconds a start or a reload waits for names nobody knows yet. What is not known by then comes later.
pub const DNS_FIRST_WAIT_MS: u64 = 5_000;

/// Names whose look-ups are counted apart, the first by the alphabet.
pub const DNS_SERIES_MAX: usize = 1_000;
