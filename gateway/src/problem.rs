//! What is wrong with the operator's text, all of it at once: key path, line and column, the line itself, what was meant.
//!
//! Made by `config` and by whatever compiles a configuration; printed by `cli`. No secret gets here: the loader masks them in
//! the sources before anything is shown, and no message quotes a value that came from the environment or a file.

use std::fmt;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Element, Level, Origin, Renderer, Snippet};

/// Problems shown; of more only the number is told. A thousand lines on a terminal help nobody.
const PROBLEMS_SHOWN_MAX: usize = 100;

/// Problems looked for. A file with more is not the file that was meant.
pub const PROBLEMS_MAX: usize = 1000;

/// Bytes of a line that is shown with a mark. The renderer cuts lines to the width of a terminal, at a cost by the length.
const LINE_BYTES_MAX: usize = 4096;

/// Characters of a quoted value; longer ones are cut.
const QUOTED_CHARS_MAX: usize = 100;

/// A range of bytes in one of the files that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Index into [`Sources`].
    pub file: usize,
    pub start: usize,
    pub end: usize,
}

impl Place {
    /// The file as a whole, for what should be in it and is not.
    pub fn whole(file: usize) -> Place {
        Place { file, start: 0, end: 0 }
    }

    fn is_whole(self) -> bool {
        (self.start, self.end) == (0, 0)
    }
}

/// One thing that is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `route[2].upstream`; empty when it is about no key.
    pub key: String,
    /// What is wrong: lower case, no full stop.
    pub what: String,
    /// Where. `None`: nowhere in a file.
    pub place: Option<Place>,
    /// What to do, shown at the mark.
    pub hint: Option<String>,
    /// Other places this is about, each with a word about it.
    pub also: Vec<(Place, String)>,
}

impl Problem {
    pub fn new(key: impl Into<String>, what: impl Into<String>) -> Problem {
        Problem { key: key.into(), what: what.into(), place: None, hint: None, also: Vec::new() }
    }

    pub fn at(mut self, place: impl Into<Option<Place>>) -> Problem {
        self.place = place.into();
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = Some(hint.into());
        self
    }

    /// Adds `(did you mean ...?)` if something was close.
    pub fn meant(mut self, instead: Option<&str>) -> Problem {
        if let Some(instead) = instead {
            let _ = write!(self.what, " (did you mean {}?)", quoted(instead));
        }
        self
    }

    pub fn also(mut self, place: Place, word: impl Into<String>) -> Problem {
        self.also.push((place, word.into()));
        self
    }

    /// Key path and text, as in a log line.
    fn title(&self) -> String {
        if self.key.is_empty() { self.what.clone() } else { format!("{}: {}", self.key, self.what) }
    }
}

/// The files that were read, for showing their lines.
#[derive(Default, Clone)]
pub struct Sources {
    files: Vec<Source>,
}

#[derive(Clone)]
struct Source {
    path: PathBuf,
    text: String,
}

impl Sources {
    /// Takes a file in; its index is what [`Place::file`] says.
    pub fn add(&mut self, path: &Path, text: &str) -> usize {
        // The renderer replaces other control characters, but not those of C1, which some terminals act on. `·` has the same
        // two bytes, so places stay true.
        let text = text.replace(|c| matches!(c, '\u{80}'..='\u{9f}'), "·");
        self.files.push(Source { path: path.to_owned(), text });
        self.files.len() - 1
    }

    /// Paths in the order in which they were read.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|source| source.path.as_path())
    }

    pub fn path(&self, file: usize) -> Option<&Path> {
        self.files.get(file).map(|source| source.path.as_path())
    }

    /// Overwrites what was written at `place` with `*`, so that it can never be shown. Line breaks stay.
    pub fn mask(&mut self, place: Place) {
        let Some(source) = self.files.get_mut(place.file) else { return };
        let Some(hidden) = source.text.get(place.start..place.end) else { return };
        // Byte by byte, so that places behind it stay true.
        let stars: String =
            hidden.bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { char::from(byte) } else { '*' }).collect();
        source.text.replace_range(place.start..place.end, &stars);
    }

    /// Line and column of a place, both from 1; columns count characters.
    pub fn line_column(&self, place: Place) -> Option<(usize, usize)> {
        let line = self.line(place)?;
        Some((line.number, line.text[..line.mark.0].chars().count() + 1))
    }

    fn line(&self, place: Place) -> Option<Line<'_>> {
        let text = self.files.get(place.file)?.text.as_str();
        let floor = |at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let start = floor(place.start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let line = &text[line_start..line_end];
        let line = line.strip_suffix('\r').unwrap_or(line);
        let start = start.min(line_start + line.len());
        // A mark ends with its line, however far the value goes.
        let end = floor(place.end).clamp(start, line_start + line.len());
        let number = text[..line_start].bytes().filter(|byte| *byte == b'\n').count() + 1;
        Some(Line { number, text: line, mark: (start - line_start, end - line_start) })
    }
}

/// A line and the part of it that is marked, in bytes from its start.
struct Line<'a> {
    number: usize,
    text: &'a str,
    mark: (usize, usize),
}

impl Line<'_> {
    /// The beginning of what is marked and a little before and after it.
    fn around_mark(&self) -> String {
        let boundary = |at: usize| (0..=at).rev().find(|at| self.text.is_char_boundary(*at)).unwrap_or(0);
        let shown = boundary(self.mark.0.saturating_sub(40))..boundary((self.mark.0 + 40).min(self.text.len()));
        self.text[shown].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

/// Everything that is wrong, in the order of files and lines. Never empty.
#[derive(Clone)]
pub struct Problems {
    list: Vec<Problem>,
    sources: Arc<Sources>,
    kind: Kind,
    /// Files beside the sources that were read, or could not be.
    files: Vec<PathBuf>,
}

/// What it means that there are problems.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The configuration does not load.
    Problems,
    /// It loads; somebody should know nevertheless.
    Warnings,
    /// The file itself could not be read: nothing can be said about what is in it.
    Unreadable,
}

impl Problems {
    /// Sorted by place; what is nowhere comes last.
    pub fn new(mut list: Vec<Problem>, sources: Arc<Sources>) -> Problems {
        list.sort_by_key(|problem| (problem.place.is_none(), problem.place.map(|at| (at.file, at.start))));
        list.dedup();
        Problems { list, sources, kind: Kind::Problems, files: Vec::new() }
    }

    /// What is no reason to refuse a configuration, in the same form.
    pub fn warnings(list: Vec<Problem>, sources: Arc<Sources>) -> Problems {
        Problems { kind: Kind::Warnings, ..Problems::new(list, sources) }
    }

    /// The file itself could not be read: nothing can be said about what is in it.
    pub fn unreadable(problem: Problem) -> Problems {
        Problems { list: vec![problem], sources: Arc::default(), kind: Kind::Unreadable, files: Vec::new() }
    }

    /// The same, with files that are worth another look when they change.
    pub fn about_files(self, files: Vec<PathBuf>) -> Problems {
        Problems { files, ..self }
    }

    /// Every file that another look may find changed.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.sources.paths().chain(self.files.iter().map(PathBuf::as_path))
    }

    pub fn is_unreadable(&self) -> bool {
        self.kind == Kind::Unreadable
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// Each problem on a line of its own, without the text it is about: `file:line:column: key: what`.
    pub fn lines(&self) -> Vec<String> {
        let line = |problem: &Problem| {
            let place = problem.place.and_then(|place| {
                let (line, column) = self.sources.line_column(place)?;
                Some(format!("{}:{line}:{column}: ", self.sources.path(place.file)?.display()))
            });
            let key = if problem.key.is_empty() { String::new() } else { format!("{}: ", problem.key) };
            let hint = problem.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
            format!("{}{key}{}{hint}", place.unwrap_or_default(), problem.what)
        };
        self.list.iter().map(line).collect()
    }

    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// For a person: each problem with its line and a mark, then how many there are.
    pub fn render(&self, renderer: &Renderer) -> String {
        let mut out = String::new();
        for problem in self.list.iter().take(PROBLEMS_SHOWN_MAX) {
            self.render_one(problem, renderer, &mut out);
            out.push_str("\n\n");
        }
        if self.is_unreadable() {
            out.truncate(out.trim_end().len());
            out.push('\n');
            return out;
        }
        let count = self.list.len();
        let more = count.saturating_sub(PROBLEMS_SHOWN_MAX);
        if more > 0 {
            let _ = writeln!(out, "... and {more} more\n");
        }
        let or_more = if count < PROBLEMS_MAX { "" } else { " or more" };
        let thing = if self.kind == Kind::Warnings { "warning" } else { "problem" };
        let _ = writeln!(out, "{count}{or_more} {thing}{}", if count == 1 { "" } else { "s" });
        out
    }

    fn render_one(&self, problem: &Problem, renderer: &Renderer, out: &mut String) {
        let title = problem.title();
        let first = problem.place.map(|place| (place, problem.hint.as_deref().unwrap_or_default()));
        let places = first.into_iter().chain(problem.also.iter().map(|(place, word)| (*place, word.as_str())));
        let mut elements: Vec<Element<'_>> = Vec::new();
        for (index, (place, word)) in places.enumerate() {
            let Some(path) = self.sources.path(place.file).map(shown_path) else { continue };
            let Some(line) = self.sources.line(place).filter(|_| !place.is_whole()) else {
                elements.push(Origin::path(path).into());
                continue;
            };
            if line.text.len() > LINE_BYTES_MAX {
                // A mark under a part of the line would count columns from the cut.
                let column = line.text[..line.mark.0].chars().count() + 1;
                elements.push(Origin::path(path).line(line.number).char_column(column).into());
                elements.push(Level::NOTE.no_name().message(format!("...{}...", line.around_mark())).into());
                continue;
            }
            let kind = if index == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
            let annotation = kind.span(line.mark.0..line.mark.1).label((!word.is_empty()).then_some(word));
            let snippet = Snippet::source(line.text).line_start(line.number).path(path);
            elements.push(snippet.annotation(annotation).into());
        }
        let level = if self.kind == Kind::Warnings { Level::WARNING } else { Level::ERROR.no_name() };
        let group = level.primary_title(&title).elements(elements);
        // Without a line there is no mark to show it at.
        let nowhere = problem.place.is_none_or(Place::is_whole);
        let hint = problem.hint.as_deref().filter(|_| nowhere);
        let group = group.elements(hint.map(|hint| Level::HELP.message(hint)));
        out.push_str(renderer.render(&[group]).trim_end());
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(&Renderer::plain()))
    }
}

impl fmt::Debug for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.list).finish()
    }
}

impl std::error::Error for Problems {}

/// A path with nothing in it that a terminal would act on.
fn shown_path(path: &Path) -> String {
    path.display().to_string().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A value as it would be written in the file, cut when long; control characters are escaped.
pub fn quoted(value: &str) -> String {
    let mut out = String::from("\"");
    for (index, c) in value.chars().enumerate() {
        match c {
            _ if index == QUOTED_CHARS_MAX => {
                out.push('…');
                break;
            }
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `a`, `b` and `c`, as they would be written in the file.
pub fn alternatives<'a>(values: impl IntoIterator<Item = &'a str>) -> String {
    let mut values: Vec<String> = values.into_iter().map(quoted).collect();
    match values.pop() {
        None => String::new(),
        Some(last) if values.is_empty() => last,
        Some(last) => format!("{} or {last}", values.join(", ")),
    }
}

/// The name among `known` that `text` was most likely meant to be. `None`: nothing is close.
pub fn closest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Nothing in the file has a longer name; the distance costs the product of both lengths.
    if text.len() > QUOTED_CHARS_MAX {
        return None;
    }
    // One slip in a short word, one per three letters in a longer one; a transposition counts as one.
    let slips_max = (text.chars().count() / 3).max(1);
    let lower = text.to_lowercase();
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(&lower, &known.to_lowercase()), known))
        .filter(|(slips, known)| *slips <= slips_max && *slips < known.chars().count())
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(text: &str) -> Sources {
        let mut sources = Sources::default();
        sources.add(Path::new("gateway.toml"), text);
        sources
    }

    fn place(start: usize, end: usize) -> Place {
        Place { file: 0, start, end }
    }

    #[test]
    fn a_problem_shows_its_line_and_marks_the_word() {
        let text = "[[route]]\nupstream = \"ordesr\"\n";
        let problem = Problem::new("route[0].upstream", "no upstream is named \"ordesr\"")
            .meant(Some("orders"))
            .at(place(21, 29))
            .also(place(0, 9), "in this route");
        let problems = Problems::new(vec![problem], Arc::new(sources(text)));
        insta::assert_snapshot!(problems, @r#"
        route[0].upstream: no upstream is named "ordesr" (did you mean "orders"?)
         --> gateway.toml:2:12
          |
        2 | upstream = "ordesr"
          |            ^^^^^^^^
          |
         ::: gateway.toml:1:1
          |
        1 | [[route]]
          | --------- in this route

        1 problem
        "#);
    }

    #[test]
    fn problems_come_in_the_order_of_their_lines() {
        let list = vec![
            Problem::new("", "nowhere"),
            Problem::new("b", "second").at(place(2, 3)),
            Problem::new("a", "first").at(place(0, 1)),
        ];
        let problems = Problems::new(list, Arc::new(sources("a\nb\n")));
        let order: Vec<_> = problems.iter().map(|problem| problem.what.as_str()).collect();
        assert_eq!(order, ["first", "second", "nowhere"]);
    }

    #[test]
    fn a_mask_hides_the_value_and_moves_nothing() {
        let text = "token = \"geheim\u{e9}\"\nnext = 1\n";
        let mut sources = sources(text);
        sources.mask(place(8, 18));
        assert_eq!(sources.files[0].text, "token = **********\nnext = 1\n".replace("**********", &"*".repeat(10)));
        assert_eq!(sources.line_column(place(text.find("next").unwrap(), 0)), Some((2, 1)));
    }

    #[test]
    fn a_place_beyond_the_text_does_no_harm() {
        let list = vec![
            Problem::new("a", "far").at(place(100, 200)),
            Problem::new("b", "backwards").at(place(3, 1)),
            Problem::new("c", "no such file").at(Place { file: 7, start: 0, end: 1 }),
            Problem::new("d", "inside a character").at(place(1, 2)),
        ];
        let text = Problems::new(list, Arc::new(sources("\u{e9}\u{e9}"))).to_string();
        assert!(text.ends_with("4 problems\n"), "{text}");
    }

    #[test]
    fn what_a_terminal_would_act_on_is_not_printed() {
        let text = "a = \"\u{1b}[31m\u{202e}\u{9b}31m\"";
        let problem = Problem::new("a", format!("not {}", quoted("\u{1b}[31m"))).at(place(4, 12));
        let problems = Problems::new(vec![problem], Arc::new(sources(text)));
        assert!(!problems.to_string().contains(['\u{1b}', '\u{202e}', '\u{9b}']), "{problems}");
    }

    #[test]
    fn a_long_line_is_cut_around_its_mark() {
        let text = format!("{}x{}", "a".repeat(100_000), "b".repeat(100_000));
        let problem = Problem::new("a", "long").at(place(100_000, 100_001));
        let shown = Problems::new(vec![problem], Arc::new(sources(&text))).to_string();
        assert!(shown.len() < 1000 && shown.contains("axb"), "{shown}");
        assert!(shown.contains("gateway.toml:1:100001"), "{shown}");
    }

    #[test]
    fn a_slip_is_recognized_and_another_word_is_not() {
        let known = ["methods", "path", "upstream", "auth"];
        for (text, expected) in [
            ("methds", Some("methods")),
            ("Methods", Some("methods")),
            ("pathe", Some("path")),
            ("upstraem", Some("upstream")),
            ("atuh", Some("auth")),
            ("host", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(closest(text, known), expected, "{text}");
        }
    }
}
