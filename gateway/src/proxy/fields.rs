//! The fields of a head: one arena of received bytes, a table over it, and edits beside it.
//!
//! HTTP/1 hands its read buffer over as it is, so a head costs no copy; HTTP/2 writes decoded fields behind each other into
//! a text that is as large as they are. An edit never touches the received bytes: a removed field is struck from the table, an
//! added one lives in a text beside it. Tables and texts are recycled by the thread, so a head allocates nothing in steady
//! state.

use std::cell::RefCell;

use http1::{Field, Known, Span, encode};

use crate::limits::BUFFER_BYTES;
use crate::rt::Buf;

/// Sets of emptied tables a thread keeps: two heads an exchange, for 512 exchanges that run at one time. Some 3 KiB each.
const RECYCLED_MAX: usize = 1024;

/// A text beyond this is not kept: one large head must not hold its memory for ever.
const RECYCLED_TEXT_BYTES_MAX: usize = 4096;

thread_local! {
    static RECYCLED: RefCell<Vec<Tables>> = const { RefCell::new(Vec::new()) };
}

#[derive(Default)]
struct Tables {
    received: Vec<Field>,
    /// The received bytes, when they came in no buffer.
    written: Vec<u8>,
    added: Vec<Field>,
    text: Vec<u8>,
}

/// Writes a field line behind `text`, so that neighbours are encoded by one copy.
fn write_line(text: &mut Vec<u8>, table: &mut Vec<Field>, name: &[u8], value: &[u8], known: Known) {
    let start = text.len() as u32;
    encode::field(text, name, value);
    table.push(Field {
        name: Span { start, len: name.len() as u32 },
        value: Span { start: start + name.len() as u32 + 2, len: value.len() as u32 },
        known,
        underscore: name.contains(&b'_'),
    });
}

/// What the `Connection` fields of a head list.
#[derive(Clone, Copy)]
pub struct Listed<'a> {
    arena: &'a [u8],
    fields: &'a [Field],
}

impl Listed<'_> {
    pub fn lists(self, name: &[u8]) -> bool {
        http1::is_connection_listed(self.arena, self.fields, name)
    }

    /// The names of the list, for who outlives the head.
    pub fn names(self) -> Vec<Box<[u8]>> {
        let fields = self.fields.iter().filter(|field| field.known == Known::Connection);
        let elements = fields.flat_map(|field| field.value.of(self.arena).split(|&byte| byte == b','));
        elements.map(|name| name.trim_ascii().into()).collect()
    }
}

/// Fields as received, and as edited since.
pub struct Fields {
    /// Where the received bytes lie. `None`: in the text of the tables.
    arena: Option<Buf>,
    tables: Tables,
}

/// The received bytes. Takes fields and not the whole: tables are edited beside them.
fn received<'a>(arena: &'a Option<Buf>, written: &'a [u8]) -> &'a [u8] {
    arena.as_ref().map_or(written, Buf::bytes)
}

impl Fields {
    /// No fields, over an arena that `parse` will fill the table for.
    pub fn over(arena: Buf) -> Fields {
        Fields::new().with_arena(arena)
    }

    /// The same tables, emptied, over another arena.
    pub fn with_arena(mut self, arena: Buf) -> Fields {
        self.tables.received.clear();
        self.arena = Some(arena);
        self
    }

    /// No fields and nothing received: an answer of our own.
    pub fn new() -> Fields {
        let tables = RECYCLED.with_borrow_mut(Vec::pop).unwrap_or_default();
        Fields { arena: None, tables }
    }

    /// Writes text of a received head that is no field. `None`: it does not fit.
    pub fn receive_text(&mut self, text: &[u8]) -> Option<Span> {
        let written = &mut self.tables.written;
        let start = written.len() as u32;
        (written.len() + text.len() <= BUFFER_BYTES).then(|| {
            written.extend_from_slice(text);
            Span { start, len: text.len() as u32 }
        })
    }

    /// Writes a received field. `false`: it does not fit.
    #[must_use]
    pub fn receive(&mut self, name: &[u8], value: &[u8], known: Known) -> bool {
        let Tables { received, written, .. } = &mut self.tables;
        let fits = written.len() + name.len() + value.len() + 4 <= BUFFER_BYTES;
        if fits {
            write_line(written, received, name, value, known);
        }
        fits
    }

    /// The received bytes.
    pub fn arena(&self) -> &[u8] {
        received(&self.arena, &self.tables.written)
    }

    /// The received bytes and the table to fill from them.
    pub fn parse_into(&mut self) -> (&[u8], &mut Vec<Field>) {
        (received(&self.arena, &self.tables.written), &mut self.tables.received)
    }

    /// Cuts off what lies behind the head, which was taken elsewhere.
    pub fn truncate_arena(&mut self, head_bytes: usize) {
        if let Some(arena) = &mut self.arena {
            arena.truncate(head_bytes);
        }
    }

    /// Gives the arena up, for what lies behind the head in it. The received fields are gone with it.
    pub fn take_arena(&mut self) -> Option<Buf> {
        self.tables.received.clear();
        self.arena.take()
    }

    /// The table of received fields; struck ones have an empty name.
    pub fn received(&self) -> &[Field] {
        &self.tables.received
    }

    /// Every field that is there now: received ones in their order, then added ones in theirs.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8], Known)> {
        let arena = self.arena();
        let text = &self.tables.text[..];
        let received = self.tables.received.iter().map(move |field| (arena, field));
        let added = self.tables.added.iter().map(move |field| (text, field));
        received
            .chain(added)
            .filter(|(_, field)| !field.name.is_empty())
            .map(|(bytes, field)| (field.name.of(bytes), field.value.of(bytes), field.known))
    }

    /// Writes every field for which `keep` holds. Neighbours are copied together.
    pub fn encode(&self, out: &mut Vec<u8>, keep: impl Fn(Known) -> bool) {
        for (bytes, table) in [(self.arena(), &self.tables.received), (&self.tables.text[..], &self.tables.added)] {
            encode::fields(out, bytes, table, |field| !field.name.is_empty() && keep(field.known));
        }
    }

    /// The first value of a well-known field.
    pub fn first(&self, known: Known) -> Option<&[u8]> {
        debug_assert!(known != Known::Other, "other fields are found by name");
        let find = |fields: &[Field]| fields.iter().find(|f| f.known == known && !f.name.is_empty()).map(|f| f.value);
        match find(&self.tables.received) {
            Some(value) => Some(value.of(self.arena())),
            None => find(&self.tables.added).map(|value| value.of(&self.tables.text)),
        }
    }

    /// The first value of a field by name, compared without case.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().find(|(n, _, _)| n.eq_ignore_ascii_case(name)).map(|(_, value, _)| value)
    }

    /// Strikes every field of that name, compared without case.
    pub fn remove(&mut self, name: &[u8]) {
        self.strike(|n, _| n.eq_ignore_ascii_case(name));
    }

    /// Strikes every field that is `known`.
    pub fn remove_known(&mut self, known: Known) {
        self.strike(|_, k| k == known);
    }

    /// Strikes every field for which `gone` holds.
    pub fn strike(&mut self, gone: impl Fn(&[u8], Known) -> bool) {
        let Fields { arena, tables } = self;
        let arena = received(arena, &tables.written);
        let text = &tables.text[..];
        for (bytes, table) in [(arena, &mut tables.received), (text, &mut tables.added)] {
            for field in table.iter_mut() {
                if !field.name.is_empty() && gone(field.name.of(bytes), field.known) {
                    field.name.len = 0;
                }
            }
        }
    }

    /// Strikes received fields for which `gone` holds, told the name, the field and what `Connection` lists.
    pub fn strike_received(&mut self, gone: impl Fn(&[u8], &Field, Listed<'_>) -> bool) {
        let Fields { arena, tables } = self;
        let arena = received(arena, &tables.written);
        for at in 0..tables.received.len() {
            let field = tables.received[at];
            if field.name.is_empty() || field.known == Known::Connection {
                continue;
            }
            if gone(field.name.of(arena), &field, Listed { arena, fields: &tables.received }) {
                tables.received[at].name.len = 0;
            }
        }
        // The list is struck last: the others were asked against it. It stays known, for the trailers to be asked, too.
        for field in &mut tables.received {
            if field.known == Known::Connection {
                field.name.len = 0;
            }
        }
    }

    /// What the received `Connection` fields list, also after they were struck.
    pub fn listed(&self) -> Listed<'_> {
        Listed { arena: self.arena(), fields: &self.tables.received }
    }

    /// Adds a field behind all others. The caller vouches for a valid name and value.
    pub fn add(&mut self, name: &[u8], value: &[u8]) {
        write_line(&mut self.tables.text, &mut self.tables.added, name, value, Known::of(name));
    }

    /// Adds a field whose value is a range of the received bytes.
    pub fn add_received(&mut self, name: &[u8], value: Span) {
        let Fields { arena, tables: Tables { written, text, added, .. } } = self;
        write_line(text, added, name, value.of(received(arena, written)), Known::of(name));
    }

    /// Makes this the only field of that name.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        self.remove(name);
        self.add(name, value);
    }
}

impl Drop for Fields {
    fn drop(&mut self) {
        let mut tables = std::mem::take(&mut self.tables);
        tables.received.clear();
        tables.added.clear();
        for text in [&mut tables.written, &mut tables.text] {
            text.clear();
            text.shrink_to(RECYCLED_TEXT_BYTES_MAX);
        }
        let _ = RECYCLED.try_with(|recycled| {
            let mut recycled = recycled.borrow_mut();
            if recycled.len() < RECYCLED_MAX {
                recycled.push(tables);
            }
        });
    }
}

impl Default for Fields {
    fn default() -> Self {
        Fields::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        let mut fields = Fields::over(Buf::copy_of(text.as_bytes()).expect("fits"));
        let limits = http1::HeadLimits { head_bytes: 4096, fields: 10, target_bytes: 1000 };
        let (bytes, table) = fields.parse_into();
        http1::parse_request(bytes, &limits, table).expect("a good head");
        fields
    }

    fn names(fields: &Fields) -> Vec<String> {
        fields.iter().map(|(name, value, _)| format!("{}={}", name.escape_ascii(), value.escape_ascii())).collect()
    }

    #[test]
    fn edits_show_at_once_and_leave_the_rest_in_order() {
        let mut fields = fields("GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nx-b: 2\r\nX-a: 3\r\n\r\n");
        assert_eq!(names(&fields), ["Host=a", "X-A=1", "x-b=2", "X-a=3"]);
        fields.set(b"x-A", b"9");
        assert_eq!(names(&fields), ["Host=a", "x-b=2", "x-A=9"]);
        fields.add(b"via", b"1.1 x");
        assert_eq!(fields.first(Known::Via), Some(&b"1.1 x"[..]));
        fields.remove_known(Known::Via);
        fields.remove(b"X-B");
        assert_eq!(names(&fields), ["Host=a", "x-A=9"]);
        assert_eq!(fields.get(b"X-a"), Some(&b"9"[..]));
        assert_eq!(fields.get(b"x-b"), None);
    }

    #[test]
    fn recycled_tables_are_empty() {
        let mut first = fields("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        first.add(b"x", b"y");
        drop(first);
        let mut second = Fields::new();
        assert_eq!(names(&second), Vec::<String>::new());
        assert!(second.receive(b"x", b"z", Known::Other));
        drop(second);
        assert!(Fields::new().arena().is_empty());
    }

    #[test]
    fn a_head_without_a_buffer_is_written_line_by_line_and_bounded() {
        let mut fields = Fields::new();
        let target = fields.receive_text(b"/a").expect("fits");
        assert!(fields.receive(b"x-a", b"1", Known::Other) && fields.receive(b"x-b", b"2", Known::Other));
        fields.add_received(b"x-target", target);
        assert_eq!(names(&fields), ["x-a=1", "x-b=2", "x-target=/a"]);
        fields.remove(b"x-a");
        let mut out = Vec::new();
        fields.encode(&mut out, |_| true);
        assert_eq!(out, b"x-b: 2\r\nx-target: /a\r\n");
        let room = BUFFER_BYTES - fields.arena().len();
        assert!(!fields.receive(b"n", &vec![b'v'; room - 4], Known::Other));
        assert!(fields.receive(b"n", &vec![b'v'; room - 5], Known::Other));
        assert_eq!(fields.arena().len(), BUFFER_BYTES);
        assert!(fields.receive_text(b"/").is_none() && !fields.receive(b"", b"", Known::Other));
    }
}
