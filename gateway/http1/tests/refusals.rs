//! Every fault has a message that causes it, however the message arrives.

mod common;

use std::collections::HashSet;

use common::{CHUNKS, LIMITS, Side, read_every_way, request, text};
use http1::*;

const REFUSE: PathPolicy = PathPolicy {
    encoded_slash: Rule::Refuse,
    backslash: Rule::Refuse,
    semicolon: Rule::Refuse,
    refuse_double_slash: true,
};

/// Start lines and everything about how heads begin and end.
const HEADS: &[(&str, &[u8], Fault)] = &[
    ("leading space", b" GET / HTTP/1.1\r\n", Fault::NotHttp),
    ("json", b"{\"a\":1}", Fault::NotHttp),
    ("binary", b"\x80\x00\x01", Fault::NotHttp),
    ("tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Fault::TlsHandshake),
    ("http/2 with prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Fault::Http2Preface),
    ("two empty lines first", b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::LeadingEmptyLines),
    ("LF first", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::BareLf),
    ("LF after the request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", Fault::BareLf),
    ("LF after a field", b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", Fault::BareLf),
    ("LF for the empty line", b"GET / HTTP/1.1\r\nHost: a\r\n\n", Fault::BareLf),
    ("LF everywhere", b"GET / HTTP/1.1\nHost: a\n\n", Fault::BareLf),
    ("LF in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\nb\r\n\r\n", Fault::BareLf),
    ("LF after another fault", b"GET / HTTP/1.1\r\nHo st: a\r\nX: a\n\r\n", Fault::BareLf),
    ("CR in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", Fault::BareCr),
    ("CR in a name", b"GET / HTTP/1.1\r\nHost: a\r\nX\r: a\r\n\r\n", Fault::BareCr),
    ("CR before CRLF", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", Fault::BareCr),
    ("CR in the target", b"GET /a\rb HTTP/1.1\r\nHost: a\r\n\r\n", Fault::BareCr),
    ("CR after the method", b"GET\r / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::BareCr),
    ("CR for the empty line", b"GET / HTTP/1.1\r\nHost: a\r\n\rX", Fault::BareCr),
    ("NUL in a value", b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n", Fault::Nul),
    ("NUL in a name", b"GET / HTTP/1.1\r\nHo\0st: a\r\n\r\n", Fault::Nul),
    ("NUL in the target", b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Nul),
    ("NUL first", b"\0", Fault::Nul),
    ("a colon in the method", b"GE:T / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::MethodNotToken),
    ("a method beyond ascii", b"G\xc3\x89T / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::MethodNotToken),
    ("tab after the method", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Fault::MethodNotToken),
    ("a long method", b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::MethodTooLong),
    ("only a method", b"GET\r\nHost: a\r\n\r\n", Fault::RequestLineMalformed),
    ("two spaces before the target", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLineMalformed),
    ("two spaces before the version", b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLineMalformed),
    ("a space after the version", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Fault::RequestLineMalformed),
    ("a space in the target", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLineMalformed),
    ("no target", b"GET HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Http09),
    ("a response", b"HTTP/1.1 200 OK\r\n\r\n", Fault::RequestLineMalformed),
    ("a target beyond ascii", "GET /k\u{e4}se HTTP/1.1\r\nHost: a\r\n\r\n".as_bytes(), Fault::TargetNotAscii),
    ("a target that is no utf-8", b"GET /k\xe4se HTTP/1.1\r\nHost: a\r\n\r\n", Fault::TargetNotAscii),
    ("a query beyond ascii", "GET /?k\u{e4}se HTTP/1.1\r\nHost: a\r\n\r\n".as_bytes(), Fault::TargetNotAscii),
    ("tab in the target", b"GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n", Fault::TargetControl),
    ("DEL in the target", b"GET /a\x7f HTTP/1.1\r\nHost: a\r\n\r\n", Fault::TargetControl),
    ("a fragment", b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", Fault::TargetFragment),
    ("a fragment after a query", b"GET /?a#b HTTP/1.1\r\nHost: a\r\n\r\n", Fault::TargetFragment),
    ("a fragment in absolute form", b"GET http://a/#b HTTP/1.1\r\nHost: a\r\n\r\n", Fault::TargetFragment),
    ("a target without slash", b"GET index.html HTTP/1.1\r\nHost: a\r\n\r\n", Fault::TargetForm),
    ("a query alone", b"GET ?a HTTP/1.1\r\nHost: a\r\n\r\n", Fault::TargetForm),
    ("`*` and more", b"OPTIONS *a HTTP/1.1\r\nHost: a\r\n\r\n", Fault::TargetForm),
    ("`*` with a query", b"OPTIONS *?a HTTP/1.1\r\nHost: a\r\n\r\n", Fault::TargetForm),
    ("a uri without authority", b"GET http:/a HTTP/1.1\r\nHost: a\r\n\r\n", Fault::TargetForm),
    ("mailto", b"GET mailto:a HTTP/1.1\r\nHost: a\r\n\r\n", Fault::TargetForm),
    ("another scheme", b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Fault::TargetScheme),
    ("no scheme", b"GET ://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Fault::TargetScheme),
    ("userinfo in the target", b"GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n", Fault::TargetUserinfo),
    ("an absolute target without host", b"GET http:/// HTTP/1.1\r\nHost: a\r\n\r\n", Fault::HostEmpty),
    ("an absolute target with port 0", b"GET http://a:0/ HTTP/1.1\r\nHost: a:0\r\n\r\n", Fault::HostPort),
    ("GET *", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", Fault::AsteriskNotOptions),
    ("GET with an authority", b"GET a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", Fault::AuthorityNotConnect),
    ("CONNECT with a path", b"CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n", Fault::AuthorityNotConnect),
    ("CONNECT with a query", b"CONNECT a:80?b HTTP/1.1\r\nHost: a\r\n\r\n", Fault::AuthorityNotConnect),
    ("CONNECT without port", b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", Fault::AuthorityNotConnect),
    ("CONNECT with userinfo", b"CONNECT u@a:80 HTTP/1.1\r\nHost: a\r\n\r\n", Fault::TargetUserinfo),
    ("CONNECT elsewhere", b"CONNECT a:80 HTTP/1.1\r\nHost: b:80\r\n\r\n", Fault::TargetHostMismatch),
    ("CONNECT to another port", b"CONNECT a:80 HTTP/1.1\r\nHost: a:81\r\n\r\n", Fault::TargetHostMismatch),
    ("another host in the target", b"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", Fault::TargetHostMismatch),
    ("another port in the target", b"GET http://a:8080/ HTTP/1.1\r\nHost: a\r\n\r\n", Fault::TargetHostMismatch),
    ("the port of the other scheme", b"GET https://a/ HTTP/1.1\r\nHost: a:80\r\n\r\n", Fault::TargetHostMismatch),
    ("lower-case version", b"GET / http/1.1\r\nHost: a\r\n\r\n", Fault::VersionMalformed),
    ("a version of two digits", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", Fault::VersionMalformed),
    ("a version without a dot", b"GET / HTTP/11\r\nHost: a\r\n\r\n", Fault::VersionMalformed),
    ("another protocol", b"GET / ICY/1.1\r\nHost: a\r\n\r\n", Fault::VersionMalformed),
    ("http/1.2", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", Fault::VersionUnsupported),
    ("http/2.0", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", Fault::VersionUnsupported),
    ("http/0.9 with a version", b"GET / HTTP/0.9\r\n\r\n", Fault::VersionUnsupported),
    ("http/0.9", b"GET /\r\n\r\n", Fault::Http09),
];

/// Field lines after `GET / HTTP/1.1` and `Host: a`.
const FIELDS: &[(&str, &[u8], Fault)] = &[
    ("no name", b": a\r\n", Fault::FieldNameEmpty),
    ("space in a name", b"X Y: a\r\n", Fault::FieldNameNotToken),
    ("a name beyond ascii", b"X\xe4: a\r\n", Fault::FieldNameNotToken),
    ("control in a name", b"X\x01: a\r\n", Fault::FieldNameNotToken),
    ("parentheses in a name", b"X(a): a\r\n", Fault::FieldNameNotToken),
    ("brackets in a name", b"X[]: a\r\n", Fault::FieldNameNotToken),
    ("space before the colon", b"X : a\r\n", Fault::FieldNameSpace),
    ("tab before the colon", b"X\t: a\r\n", Fault::FieldNameSpace),
    ("space before the colon of content-length", b"Content-Length : 1\r\n", Fault::FieldNameSpace),
    ("space before the colon of transfer-encoding", b"Transfer-Encoding : chunked\r\n", Fault::FieldNameSpace),
    ("no colon", b"X\r\n", Fault::FieldColonMissing),
    ("no colon but a space", b"GET / HTTP\r\n", Fault::FieldColonMissing),
    ("a folded value", b"X: a\r\n b\r\n", Fault::ObsFold),
    ("a value folded by tab", b"X: a\r\n\tb\r\n", Fault::ObsFold),
    ("a folded empty line", b"X: a\r\n \r\n", Fault::ObsFold),
    ("a folded coding", b"Transfer-Encoding:\r\n chunked\r\n", Fault::ObsFold),
    ("control in a value", b"X: a\x01b\r\n", Fault::FieldValueControl),
    ("ESC in a value", b"X: \x1b[1m\r\n", Fault::FieldValueControl),
    ("vertical tab before a value", b"X: \x0ba\r\n", Fault::FieldValueControl),
    ("DEL in a value", b"X: a\x7f\r\n", Fault::FieldValueControl),
    ("host again", b"Host: a\r\n", Fault::HostRepeated),
    ("another host", b"hOST: b\r\n", Fault::HostRepeated),
    (
        "33 connection options",
        b"Connection: a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a\r\nConnection: a\r\n",
        Fault::TooManyConnectionOptions,
    ),
    (
        "length and coding",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        Fault::ContentLengthWithTransferEncoding,
    ),
    (
        "coding and length",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        Fault::ContentLengthWithTransferEncoding,
    ),
    (
        "length 0 and coding",
        b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        Fault::ContentLengthWithTransferEncoding,
    ),
    (
        "bad length and bad coding",
        b"Content-Length: x\r\nTransfer-Encoding: x\r\n",
        Fault::ContentLengthWithTransferEncoding,
    ),
    ("two lengths", b"Content-Length: 5\r\nContent-Length: 6\r\n", Fault::ContentLengthRepeated),
    ("the same length twice", b"Content-Length: 5\r\ncontent-length: 5\r\n", Fault::ContentLengthRepeated),
    ("a list of lengths", b"Content-Length: 5, 5\r\n", Fault::ContentLengthRepeated),
    ("a list of lengths without space", b"Content-Length: 5,6\r\n", Fault::ContentLengthRepeated),
    ("an empty length", b"Content-Length:\r\n", Fault::ContentLengthInvalid),
    ("a signed length", b"Content-Length: +5\r\n", Fault::ContentLengthInvalid),
    ("a negative length", b"Content-Length: -5\r\n", Fault::ContentLengthInvalid),
    ("a hexadecimal length", b"Content-Length: 0x5\r\n", Fault::ContentLengthInvalid),
    ("a length with a space", b"Content-Length: 5 5\r\n", Fault::ContentLengthInvalid),
    ("a length with a unit", b"Content-Length: 5b\r\n", Fault::ContentLengthInvalid),
    ("a fraction", b"Content-Length: 5.0\r\n", Fault::ContentLengthInvalid),
    ("a quoted length", b"Content-Length: \"5\"\r\n", Fault::ContentLengthInvalid),
    ("a length in other digits", "Content-Length: \u{661}\r\n".as_bytes(), Fault::ContentLengthInvalid),
    ("a length of 2^64", b"Content-Length: 18446744073709551616\r\n", Fault::ContentLengthOverflow),
    ("a length of many digits", b"Content-Length: 99999999999999999999999999999\r\n", Fault::ContentLengthOverflow),
    ("an empty coding", b"Transfer-Encoding:\r\n", Fault::TransferEncodingMalformed),
    ("an empty element", b"Transfer-Encoding: chunked,\r\n", Fault::TransferEncodingMalformed),
    ("an empty element first", b"Transfer-Encoding: ,chunked\r\n", Fault::TransferEncodingMalformed),
    ("a parameter", b"Transfer-Encoding: chunked;a=b\r\n", Fault::TransferEncodingMalformed),
    ("a quoted coding", b"Transfer-Encoding: \"chunked\"\r\n", Fault::TransferEncodingMalformed),
    ("two words", b"Transfer-Encoding: chunked x\r\n", Fault::TransferEncodingMalformed),
    ("a coding beyond ascii", b"Transfer-Encoding: chunked\xa0\r\n", Fault::TransferEncodingMalformed),
    ("another coding alone", b"Transfer-Encoding: gzip\r\n", Fault::ChunkedNotLast),
    ("identity", b"Transfer-Encoding: identity\r\n", Fault::ChunkedNotLast),
    ("nearly chunked", b"Transfer-Encoding: xchunked\r\n", Fault::ChunkedNotLast),
    ("chunked, then another", b"Transfer-Encoding: chunked, identity\r\n", Fault::ChunkedNotLast),
    ("chunked, then another line", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", Fault::ChunkedNotLast),
    ("chunked twice", b"Transfer-Encoding: chunked, chunked\r\n", Fault::ChunkedRepeated),
    ("chunked on two lines", b"Transfer-Encoding: chunked\r\ntransfer-encoding: Chunked\r\n", Fault::ChunkedRepeated),
    ("chunked around another", b"Transfer-Encoding: chunked, gzip, chunked\r\n", Fault::ChunkedRepeated),
    ("another, then chunked", b"Transfer-Encoding: gzip, chunked\r\n", Fault::TransferCodingUnknown),
    (
        "another line, then chunked",
        b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n",
        Fault::TransferCodingUnknown,
    ),
];

/// Values of the one Host field.
const HOSTS: &[(&str, &str, Fault)] = &[
    ("empty", "", Fault::HostEmpty),
    ("a port alone", ":80", Fault::HostEmpty),
    ("userinfo", "user@a", Fault::HostUserinfo),
    ("userinfo with a password", "user:secret@a", Fault::HostUserinfo),
    ("a list", "a, b", Fault::HostMalformed),
    ("a space", "a b", Fault::HostMalformed),
    ("a path", "a/b", Fault::HostMalformed),
    ("percent-encoding", "a%00b", Fault::HostMalformed),
    ("a name beyond ascii", "b\u{fc}cher", Fault::HostMalformed),
    ("empty labels", "a..b", Fault::HostMalformed),
    ("an open bracket", "[::1", Fault::HostMalformed),
    ("a zone", "[fe80::1%25eth0]", Fault::HostMalformed),
    ("no port after the colon", "a:", Fault::HostPort),
    ("port 65536", "a:65536", Fault::HostPort),
    ("a named port", "a:http", Fault::HostPort),
];

/// Bodies after `POST / HTTP/1.1` with `Transfer-Encoding: chunked`.
const CHUNKED: &[(&str, &[u8], Fault)] = &[
    ("no size", b"\r\n", Fault::ChunkSizeInvalid),
    ("a size that is no number", b"x\r\n", Fault::ChunkSizeInvalid),
    ("a negative size", b"-1\r\n", Fault::ChunkSizeInvalid),
    ("a size with prefix", b"0x5\r\nabcde\r\n0\r\n\r\n", Fault::ChunkSizeInvalid),
    ("a space before the size", b" 5\r\nabcde\r\n", Fault::ChunkSizeInvalid),
    ("an extension without size", b";a\r\n", Fault::ChunkSizeInvalid),
    ("a comma after the size", b"5,\r\nabcde\r\n", Fault::ChunkSizeInvalid),
    ("control after the size", b"5\x0b\r\nabcde\r\n", Fault::ChunkSizeInvalid),
    ("17 digits", b"00000000000000005\r\nabcde\r\n", Fault::ChunkSizeOverflow),
    ("2^64", b"10000000000000000\r\n", Fault::ChunkSizeOverflow),
    ("many digits", b"fffffffffffffffffffffffff\r\n", Fault::ChunkSizeOverflow),
    ("LF after the size", b"5\nabcde\r\n", Fault::ChunkLineEnd),
    ("CR alone after the size", b"5\rabcde\r\n", Fault::ChunkLineEnd),
    ("CR twice after the size", b"5\r\r\nabcde\r\n", Fault::ChunkLineEnd),
    ("LF after an extension", b"5;a\nabcde\r\n", Fault::ChunkLineEnd),
    ("LF in an extension", b"5;a\n;b\r\nabcde\r\n", Fault::ChunkLineEnd),
    ("LF in a quoted extension", b"5;a=\"\n\"\r\nabcde\r\n", Fault::ChunkLineEnd),
    ("LF after the last chunk", b"0\n\r\n", Fault::ChunkLineEnd),
    ("data longer than its size", b"3\r\nabcde\r\n", Fault::ChunkDataEnd),
    ("LF after the data", b"5\r\nabcde\n0\r\n\r\n", Fault::ChunkDataEnd),
    ("CR alone after the data", b"5\r\nabcde\r0\r\n\r\n", Fault::ChunkDataEnd),
    ("nothing after the data", b"5\r\nabcde0\r\n\r\n", Fault::ChunkDataEnd),
    ("a bare semicolon", b"5;\r\nabcde\r\n", Fault::ChunkExtensionMalformed),
    ("a bare semicolon and space", b"5; \r\nabcde\r\n", Fault::ChunkExtensionMalformed),
    ("two semicolons", b"5;;a\r\nabcde\r\n", Fault::ChunkExtensionMalformed),
    ("a semicolon at the end", b"5;a;\r\nabcde\r\n", Fault::ChunkExtensionMalformed),
    ("a space after the size", b"5 \r\nabcde\r\n", Fault::ChunkExtensionMalformed),
    ("a space and a word", b"5 a\r\nabcde\r\n", Fault::ChunkExtensionMalformed),
    ("a space after a name", b"5;a \r\nabcde\r\n", Fault::ChunkExtensionMalformed),
    ("a space after a value", b"5;a=b \r\nabcde\r\n", Fault::ChunkExtensionMalformed),
    ("no name", b"5;=a\r\nabcde\r\n", Fault::ChunkExtensionMalformed),
    ("no value", b"5;a=\r\nabcde\r\n", Fault::ChunkExtensionMalformed),
    ("two values", b"5;a=b=c\r\nabcde\r\n", Fault::ChunkExtensionMalformed),
    ("a quote that is not closed", b"5;a=\"b\r\nabcde\r\n", Fault::ChunkExtensionMalformed),
    ("a CR in quotes", b"5;a=\"\r\n\"\r\nabcde\r\n", Fault::ChunkExtensionMalformed),
    ("text after quotes", b"5;a=\"b\"c\r\nabcde\r\n", Fault::ChunkExtensionMalformed),
    ("a name beyond ascii", b"5;\xe4\r\nabcde\r\n", Fault::ChunkExtensionMalformed),
    ("control in an extension", b"5;a\x01\r\nabcde\r\n", Fault::ChunkExtensionControl),
    ("NUL in an extension", b"5;\0\r\nabcde\r\n", Fault::ChunkExtensionControl),
    ("control in quotes", b"5;a=\"\x1b\"\r\nabcde\r\n", Fault::ChunkExtensionControl),
    ("DEL in quotes", b"5;a=\"\x7f\"\r\nabcde\r\n", Fault::ChunkExtensionControl),
    ("an escaped control", b"5;a=\"\\\x01\"\r\nabcde\r\n", Fault::ChunkExtensionControl),
    ("LF in the trailers", b"0\r\nX: a\n\r\n", Fault::BareLf),
    ("CR in the trailers", b"0\r\nX: a\rb\r\n\r\n", Fault::BareCr),
    ("NUL in the trailers", b"0\r\nX: a\0\r\n\r\n", Fault::Nul),
    ("a folded trailer", b"0\r\nX: a\r\n b\r\n\r\n", Fault::ObsFold),
    ("a folded first trailer", b"0\r\n X: a\r\n\r\n", Fault::ObsFold),
    ("a trailer without colon", b"0\r\nGET / HTTP/1.1\r\n\r\n", Fault::FieldColonMissing),
    ("space before the colon of a trailer", b"0\r\nX : a\r\n\r\n", Fault::FieldNameSpace),
    ("control in a trailer", b"0\r\nX: \x01\r\n\r\n", Fault::FieldValueControl),
    ("a trailer without name", b"0\r\n: a\r\n\r\n", Fault::FieldNameEmpty),
    ("five trailers", b"0\r\na: 1\r\nb: 2\r\nc: 3\r\nd: 4\r\ne: 5\r\n\r\n", Fault::TooManyTrailers),
];

/// Paths under the policy that refuses all it can.
const PATHS: &[(&str, &[u8], Fault)] = &[
    ("no slash", b"a/b", Fault::PathNotAbsolute),
    ("an asterisk", b"*", Fault::PathNotAbsolute),
    ("an escape first", b"%2Fa", Fault::PathNotAbsolute),
    ("beyond ascii", "/\u{e4}".as_bytes(), Fault::PathNotAscii),
    ("beyond ascii first", "\u{e4}".as_bytes(), Fault::PathNotAscii),
    ("a space", b"/a b", Fault::PathCharacter),
    ("NUL", b"/a\0", Fault::PathCharacter),
    ("a query", b"/a?b", Fault::PathCharacter),
    ("a fragment", b"/a#b", Fault::PathCharacter),
    ("a percent at the end", b"/a%", Fault::PathPercent),
    ("one digit", b"/a%4", Fault::PathPercent),
    ("no digits", b"/a%zz", Fault::PathPercent),
    ("iis unicode", b"/a%u002e", Fault::PathPercent),
    ("encoded NUL", b"/a%00", Fault::PathEncodedControl),
    ("encoded LF", b"/a%0a", Fault::PathEncodedControl),
    ("encoded DEL", b"/a%7F", Fault::PathEncodedControl),
    ("an overlong slash", b"/a%c0%af", Fault::PathOverlong),
    ("an overlong dot", b"/%C0%AE%C0%AE/", Fault::PathOverlong),
    ("an overlong dot of three bytes", b"/%e0%80%ae", Fault::PathOverlong),
    ("an overlong dot of four bytes", b"/%f0%80%80%ae", Fault::PathOverlong),
    ("an encoded slash", b"/a%2fb", Fault::PathEncodedSlash),
    ("a backslash", b"/a\\b", Fault::PathBackslash),
    ("a backslash first", b"\\a", Fault::PathBackslash),
    ("an encoded backslash", b"/a%5cb", Fault::PathEncodedBackslash),
    ("a semicolon", b"/a;b", Fault::PathSemicolon),
    ("an encoded semicolon", b"/a%3bb", Fault::PathSemicolon),
    ("two slashes", b"/a//b", Fault::PathDoubleSlash),
    ("two slashes first", b"//a", Fault::PathDoubleSlash),
    ("two slashes last", b"/a//", Fault::PathDoubleSlash),
    ("an empty segment by dot removal", b"/a/.//b", Fault::PathDoubleSlash),
    ("above the root", b"/..", Fault::PathAboveRoot),
    ("above the root later", b"/a/../../b", Fault::PathAboveRoot),
    ("above the root, encoded", b"/%2e%2E/", Fault::PathAboveRoot),
    ("above the root, half encoded", b"/.%2e/a", Fault::PathAboveRoot),
    ("a parameter of dots", b"/a/..;/b", Fault::PathDotParameter),
    ("a parameter of a dot", b"/a/.;x=y/b", Fault::PathDotParameter),
    ("an encoded parameter of dots", b"/a/%2e%2e%3bx/b", Fault::PathDotParameter),
];

/// Paths under the policy that keeps all it can: these are refused by every policy.
const PATHS_KEPT: &[(&str, &[u8], Fault)] = &[
    ("dots behind an encoded slash", b"/a%2F..", Fault::PathHiddenDots),
    ("dots before an encoded slash", b"/a/..%2fb", Fault::PathHiddenDots),
    ("dots between encoded slashes", b"/a%2f..%2Fb", Fault::PathHiddenDots),
    ("encoded dots between encoded slashes", b"/a%2f%2e%2e%2Fb", Fault::PathHiddenDots),
    ("a dot behind an encoded backslash", b"/a%5c./b", Fault::PathHiddenDots),
    ("dots with a parameter behind an encoded slash", b"/a%2f..;b/c", Fault::PathHiddenDots),
    ("dots with an encoded parameter", b"/a%2f..%3Bb/c", Fault::PathHiddenDots),
    ("a backslash", b"/a\\b", Fault::PathBackslash),
    ("a parameter of dots", b"/a/..;/b", Fault::PathDotParameter),
    ("dots after an empty segment", b"/a//../b", Fault::PathDotsAndEmpty),
    ("dots before an empty segment", b"/a/b/..//c", Fault::PathDotsAndEmpty),
    ("above the root", b"/../a", Fault::PathAboveRoot),
    ("encoded NUL", b"/%00", Fault::PathEncodedControl),
    ("an overlong slash", b"/a%c0%af..", Fault::PathOverlong),
];

/// Responses to GET.
const RESPONSES: &[(&str, &[u8], Fault)] = &[
    ("another protocol", b"220 mail.example.com ESMTP\r\n", Fault::NotHttp),
    ("an empty line first", b"\r\nHTTP/1.1 200 OK\r\n\r\n", Fault::NotHttp),
    ("http/2", b"\0\0\x12\x04\0\0\0\0\0", Fault::NotHttp),
    ("http/2.0", b"HTTP/2.0 200 OK\r\n\r\n", Fault::VersionUnsupported),
    ("http/2 without minor", b"HTTP/2 200\r\n\r\n", Fault::VersionMalformed),
    ("no status", b"HTTP/1.1\r\n\r\n", Fault::StatusLineMalformed),
    ("a status of two digits", b"HTTP/1.1 20 OK\r\n\r\n", Fault::StatusLineMalformed),
    ("a status of four digits", b"HTTP/1.1 2000 OK\r\n\r\n", Fault::StatusLineMalformed),
    ("a status with a letter", b"HTTP/1.1 2x0 OK\r\n\r\n", Fault::StatusLineMalformed),
    ("two spaces", b"HTTP/1.1  200 OK\r\n\r\n", Fault::StatusLineMalformed),
    ("control in the reason", b"HTTP/1.1 200 O\x01K\r\n\r\n", Fault::StatusLineMalformed),
    ("status 099", b"HTTP/1.1 099 Low\r\n\r\n", Fault::StatusOutOfRange),
    ("status 600", b"HTTP/1.1 600 High\r\n\r\n", Fault::StatusOutOfRange),
    ("LF after the status line", b"HTTP/1.1 200 OK\nX: a\r\n\r\n", Fault::BareLf),
    ("LF after a status without reason", b"HTTP/1.1 200\n\r\n", Fault::BareLf),
    ("CR in the reason", b"HTTP/1.1 200 O\rK\r\n\r\n", Fault::BareCr),
    ("NUL in the reason", b"HTTP/1.1 200 O\0K\r\n\r\n", Fault::Nul),
    ("a folded value", b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", Fault::ObsFold),
    ("space before the colon", b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n", Fault::FieldNameSpace),
    ("a name that is no token", b"HTTP/1.1 200 OK\r\nX Y: a\r\n\r\n", Fault::FieldNameNotToken),
    (
        "length and coding",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        Fault::ContentLengthWithTransferEncoding,
    ),
    ("two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", Fault::ContentLengthRepeated),
    (
        "two lengths without a body",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        Fault::ContentLengthRepeated,
    ),
    (
        "a coding that ends with the connection",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        Fault::ChunkedNotLast,
    ),
    ("an unknown coding", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Fault::TransferCodingUnknown),
    ("http/1.0 with a coding", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::TransferEncodingIn10),
];

fn request_with_fields(fields: &[u8]) -> Vec<u8> {
    [b"GET / HTTP/1.1\r\nHost: a\r\n", fields, b"\r\n"].concat()
}

fn request_with_host(host: &str) -> Vec<u8> {
    request(&format!("GET / HTTP/1.1\nHost: {host}"))
}

fn request_with_chunks(body: &[u8]) -> Vec<u8> {
    [b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", body].concat()
}

#[test]
fn requests_are_refused_by_name() {
    for (name, bytes, fault) in HEADS {
        assert_eq!(read_every_way(Side::Request, bytes), Err(*fault), "{name}");
    }
}

#[test]
fn fields_are_refused_by_name() {
    for (name, fields, fault) in FIELDS {
        assert_eq!(read_every_way(Side::Request, &request_with_fields(fields)), Err(*fault), "{name}");
    }
}

#[test]
fn hosts_are_refused_by_name() {
    for (name, host, fault) in HOSTS {
        assert_eq!(read_every_way(Side::Request, &request_with_host(host)), Err(*fault), "{name}");
    }
}

#[test]
fn chunked_bodies_are_refused_by_name() {
    for (name, body, fault) in CHUNKED {
        assert_eq!(read_every_way(Side::Request, &request_with_chunks(body)), Err(*fault), "{name}");
    }
}

#[test]
fn responses_are_refused_by_name() {
    for (name, bytes, fault) in RESPONSES {
        assert_eq!(read_every_way(Side::Response(Method::Get), bytes), Err(*fault), "{name}");
    }
}

#[test]
fn paths_are_refused_by_name() {
    let mut out = Vec::new();
    for (policy, rows) in [(REFUSE, PATHS), (PathPolicy::KEEP, PATHS_KEPT)] {
        for (name, path, fault) in rows {
            assert_eq!(canonical_path(path, &policy, &mut out), Err(*fault), "{name}: {}", text(path));
        }
    }
}

/// Rows that need a message of their own.
fn others() -> Vec<(&'static str, Vec<u8>, Fault)> {
    let lines = |count: usize| "X: y\n".repeat(count);
    vec![
        ("no host", request("GET / HTTP/1.1"), Fault::HostMissing),
        ("no host in absolute form", request("GET http://a/ HTTP/1.1"), Fault::HostMissing),
        ("a coding in http/1.0", request("POST / HTTP/1.0\nTransfer-Encoding: chunked"), Fault::TransferEncodingIn10),
        ("host twice in http/1.0", request("GET / HTTP/1.0\nHost: a\nHost: a"), Fault::HostRepeated),
        ("17 fields", request(&format!("GET / HTTP/1.1\n{}Host: a", lines(LIMITS.fields))), Fault::TooManyFields),
        (
            "a large field",
            request(&format!("GET / HTTP/1.1\nHost: a\nX: {}", "y".repeat(LIMITS.head_bytes))),
            Fault::HeadTooLarge,
        ),
        (
            "a long target",
            request(&format!("GET /{} HTTP/1.1\nHost: a", "y".repeat(LIMITS.target_bytes))),
            Fault::TargetTooLong,
        ),
        ("a target without end", format!("GET /{}", "y".repeat(LIMITS.head_bytes)).into_bytes(), Fault::TargetTooLong),
        (
            "a long extension",
            request_with_chunks(format!("1;{}\r\nx\r\n", "a".repeat(CHUNKS.extension_bytes)).as_bytes()),
            Fault::ChunkExtensionTooLong,
        ),
        (
            "an extension in every chunk",
            request_with_chunks(format!("1;{}\r\nx\r\n", "a".repeat(60)).repeat(400).as_bytes()),
            Fault::ChunkOverhead,
        ),
        (
            "large trailers",
            request_with_chunks(format!("0\r\nX: {}\r\n\r\n", "y".repeat(CHUNKS.trailer_bytes)).as_bytes()),
            Fault::TrailersTooLarge,
        ),
    ]
}

#[test]
fn what_is_too_much_or_missing_is_refused_by_name() {
    for (name, bytes, fault) in others() {
        // Cut everywhere is quadratic: these are long.
        let each: Vec<usize> = (0..bytes.len()).collect();
        assert_eq!(common::read(Side::Request, &bytes, &[]), Err(fault), "{name}");
        assert_eq!(common::read(Side::Request, &bytes, &each), Err(fault), "{name}, byte by byte");
    }
}

#[test]
fn a_head_that_is_not_complete_is_refused_by_the_parsers() {
    let mut fields = Vec::new();
    assert_eq!(parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n", &LIMITS, &mut fields), Err(Fault::HeadIncomplete));
    assert_eq!(parse_response(b"HTTP/1.1 200 OK\r\n", &LIMITS, &mut fields), Err(Fault::HeadIncomplete));
}

#[test]
fn every_fault_is_caused_by_a_row_of_these_tables() {
    let rows = [HEADS, FIELDS, CHUNKED, PATHS, PATHS_KEPT, RESPONSES].concat();
    let mut caused: HashSet<Fault> = rows.iter().map(|row| row.2).collect();
    caused.extend(HOSTS.iter().map(|row| row.2));
    caused.extend(others().iter().map(|row| row.2));
    // By `a_head_that_is_not_complete_is_refused_by_the_parsers`.
    caused.insert(Fault::HeadIncomplete);
    let missing: Vec<&Fault> = Fault::ALL.iter().filter(|fault| !caused.contains(fault)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
