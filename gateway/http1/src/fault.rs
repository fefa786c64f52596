//! Everything that can be wrong with a message, each cause by its own name.
//!
//! A fault says what the bytes were, not what to do about it: on the client's side the gateway answers
//! [`Fault::status`] and closes, on the upstream's side it answers 502 whatever the status here says.

use std::fmt;

/// Declares the enum and its tables from one list, so that no cause can lack a code, a status or a text.
macro_rules! faults {
    ($($variant:ident $status:literal $code:literal $detail:literal,)*) => {
        /// What is wrong with a message. Small and `Copy`: returned on the data path.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Fault {
            $(#[doc = concat!("`", $code, "` (", stringify!($status), "): ", $detail)] $variant,)*
        }

        impl Fault {
            /// Every fault there is, in the order they are declared.
            pub const ALL: &[Fault] = &[$(Fault::$variant,)*];

            /// Stable name for logs, metrics and problem documents.
            pub fn code(self) -> &'static str {
                match self { $(Fault::$variant => $code,)* }
            }

            /// What is wrong and what to do, for the one who sent it.
            pub fn detail(self) -> &'static str {
                match self { $(Fault::$variant => $detail,)* }
            }

            /// The status a client that sent this is answered with.
            pub fn status(self) -> u16 {
                match self { $(Fault::$variant => $status,)* }
            }
        }
    };
}

faults! {
    // --- where a message starts and ends (scan) ---
    NotHttp 400 "not_http" "the first bytes are no http/1.1 message; check what speaks to this port",
    TlsHandshake 400 "tls_handshake" "this port speaks plain http; use http:// or the port that speaks tls",
    Http2Preface 505 "http2_preface" "http/2 was not agreed on for this connection; use http/1.1 or negotiate h2 by alpn",
    LeadingEmptyLines 400 "leading_empty_lines" "more than one empty line stands before the request line; send none",
    BareLf 400 "bare_lf" "a line ends in LF alone; end lines with CRLF",
    BareCr 400 "bare_cr" "a CR is not followed by LF; end lines with CRLF and send no CR elsewhere",
    Nul 400 "nul" "the head contains a NUL byte; remove it",
    HeadIncomplete 400 "head_incomplete" "the head ends before its empty line; send it whole",
    HeadTooLarge 431 "head_too_large" "the head has more bytes than are accepted here; send fewer or shorter fields",
    TooManyFields 431 "too_many_fields" "the head has more fields than are accepted here; send fewer",
    // --- start line ---
    MethodNotToken 400 "method_not_token" "the method contains a character no method may have",
    MethodTooLong 501 "method_too_long" "the method is longer than any that is known",
    RequestLineMalformed 400 "request_line_malformed" "the request line is not method, target and version with one space between them",
    TargetTooLong 414 "target_too_long" "the request-target has more bytes than are accepted here; shorten the path or the query",
    TargetNotAscii 400 "target_not_ascii" "the request-target has bytes beyond ascii; percent-encode them",
    TargetControl 400 "target_control" "the request-target contains a control character; percent-encode or remove it",
    TargetFragment 400 "target_fragment" "the request-target contains `#`; a fragment is not sent, and a literal `#` is written `%23`",
    TargetForm 400 "target_form" "the request-target is neither a path, an absolute uri, an authority nor `*`; begin it with `/`",
    TargetScheme 400 "target_scheme" "the scheme of the absolute request-target is neither http nor https",
    TargetUserinfo 400 "target_userinfo" "the request-target contains user information before `@`; use the authorization field",
    AsteriskNotOptions 400 "asterisk_not_options" "the request-target `*` goes with OPTIONS only",
    AuthorityNotConnect 400 "authority_not_connect" "CONNECT, and only CONNECT, has host and port as its request-target",
    TargetHostMismatch 400 "target_host_mismatch" "the authority of the request-target is not the one in host; send the same in both",
    VersionMalformed 400 "version_malformed" "the version is not spelled `HTTP/`, digit, dot, digit",
    VersionUnsupported 505 "version_unsupported" "this version is not spoken here; use http/1.1",
    Http09 505 "http09" "the request line has no version; http/0.9 is not spoken here, use http/1.1",
    StatusLineMalformed 400 "status_line_malformed" "the status line is not version, three digits and a reason with one space between them",
    StatusOutOfRange 400 "status_out_of_range" "the status is not between 100 and 599",
    // --- fields ---
    FieldNameEmpty 400 "field_name_empty" "a field line begins with a colon; name the field",
    FieldNameNotToken 400 "field_name_not_token" "a field name contains a character no field name may have",
    FieldNameSpace 400 "field_name_space" "white space stands before the colon of a field; remove it",
    FieldColonMissing 400 "field_colon_missing" "a field line has no colon",
    ObsFold 400 "obs_fold" "a field line begins with white space; write the value of a field on one line",
    FieldValueControl 400 "field_value_control" "a field value contains a control character; remove it",
    HostMissing 400 "host_missing" "an http/1.1 request without host cannot be routed; send one",
    HostRepeated 400 "host_repeated" "host is sent more than once; send it once",
    HostEmpty 400 "host_empty" "host names nobody; send the name of the service",
    HostUserinfo 400 "host_userinfo" "host contains user information before `@`; use the authorization field",
    HostMalformed 400 "host_malformed" "host is no name, ipv4 address or bracketed ipv6 address; letters, digits, `-`, `.` and `_` make a name",
    HostPort 400 "host_port" "the port in host is no number from 1 to 65535",
    TooManyConnectionOptions 400 "too_many_connection_options" "connection names more options than are accepted here; name only fields of this hop",
    // --- framing ---
    ContentLengthWithTransferEncoding 400 "content_length_with_transfer_encoding" "content-length and transfer-encoding contradict each other; send one of them",
    ContentLengthRepeated 400 "content_length_repeated" "content-length is sent more than once; send it once",
    ContentLengthInvalid 400 "content_length_invalid" "content-length is not a decimal number; send digits only",
    ContentLengthOverflow 413 "content_length_overflow" "content-length is larger than any body that could be sent",
    TransferEncodingIn10 400 "transfer_encoding_in_1_0" "http/1.0 has no transfer-encoding; use http/1.1 or content-length",
    TransferEncodingMalformed 400 "transfer_encoding_malformed" "transfer-encoding is no plain list of codings; send `chunked`",
    ChunkedNotLast 400 "chunked_not_last" "the last transfer coding is not chunked, so the end of the body is unknown",
    ChunkedRepeated 400 "chunked_repeated" "the chunked coding is applied more than once; apply it once",
    TransferCodingUnknown 501 "transfer_coding_unknown" "a transfer coding other than chunked is used; use content-encoding instead",
    // --- chunked bodies ---
    ChunkSizeInvalid 400 "chunk_size_invalid" "a chunk does not begin with its size in hexadecimal",
    ChunkSizeOverflow 400 "chunk_size_overflow" "a chunk size has more than 16 hexadecimal digits or is larger than any body",
    ChunkLineEnd 400 "chunk_line_end" "the line with a chunk's size does not end in CRLF",
    ChunkDataEnd 400 "chunk_data_end" "the data of a chunk is not followed by CRLF; check the chunk's size",
    ChunkExtensionMalformed 400 "chunk_extension_malformed" "a chunk extension is not `;name` or `;name=value`",
    ChunkExtensionControl 400 "chunk_extension_control" "a chunk extension contains a control character; remove it",
    ChunkExtensionTooLong 400 "chunk_extension_too_long" "the extensions of a chunk have more bytes than are accepted here",
    ChunkOverhead 400 "chunk_overhead" "the chunked coding carries far more framing than data; send larger chunks",
    TrailersTooLarge 431 "trailers_too_large" "the trailer fields have more bytes than are accepted here",
    TooManyTrailers 431 "too_many_trailers" "there are more trailer fields than are accepted here",
    // --- paths ---
    PathNotAbsolute 400 "path_not_absolute" "the path does not begin with `/`",
    PathNotAscii 400 "path_not_ascii" "the path has bytes beyond ascii; percent-encode them",
    PathCharacter 400 "path_character" "the path contains a control character, a space, `?` or `#`; percent-encode it",
    PathPercent 400 "path_percent" "a `%` in the path is not followed by two hexadecimal digits; write `%25` for a literal one",
    PathEncodedControl 400 "path_encoded_control" "the path contains an encoded control character; remove it",
    PathOverlong 400 "path_overlong" "the path contains an overlong utf-8 sequence; use the shortest form",
    PathEncodedSlash 400 "path_encoded_slash" "the path contains `%2F`, which services read differently; it is not accepted on this route",
    PathBackslash 400 "path_backslash" "the path contains a backslash; write `/` between segments",
    PathEncodedBackslash 400 "path_encoded_backslash" "the path contains `%5C`, which services read differently; it is not accepted on this route",
    PathSemicolon 400 "path_semicolon" "the path contains `;`, which services read differently; it is not accepted on this route",
    PathDoubleSlash 400 "path_double_slash" "the path contains an empty segment; it is not accepted on this route",
    PathAboveRoot 400 "path_above_root" "the `..` segments of the path lead above its root",
    PathDotParameter 400 "path_dot_parameter" "a `.` or `..` segment of the path has a `;` parameter; remove the segment",
    PathHiddenDots 400 "path_hidden_dots" "a `.` or `..` stands beside an encoded slash or backslash; remove it",
    PathDotsAndEmpty 400 "path_dots_and_empty" "the path has both `..` and empty segments, whose order of removal is read differently; send it resolved",
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail())
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_unique_and_snake_case() {
        let codes: HashSet<&str> = Fault::ALL.iter().map(|fault| fault.code()).collect();
        assert_eq!(codes.len(), Fault::ALL.len());
        for code in codes {
            assert!(code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{code}");
        }
    }

    #[test]
    fn details_are_lower_case_without_a_full_stop() {
        for fault in Fault::ALL {
            let detail = fault.detail();
            assert!(!detail.ends_with('.'), "{detail}");
            assert!(detail.len() > 10 && detail.len() < 140, "{detail}");
        }
    }

    #[test]
    fn statuses_are_those_of_the_standards() {
        for fault in Fault::ALL {
            assert!([400, 413, 414, 431, 501, 505].contains(&fault.status()), "{fault:?}");
        }
    }
}
