//! Secrets from files: `token_file = "..."` becomes `token`. No message holds what was read.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::shape::{Shape, TableShape};
use super::tree::{Entry, Node, Table, Text, Value};
use super::walk::{folder, join};
use super::words;
use crate::problem::{Problem, Sources};

/// Bytes of a secret's file. A key or token is far smaller; what is larger is the wrong file.
const SECRET_FILE_BYTES_MAX: u64 = 64 * 1024;

const SUFFIX: &str = "_file";

/// For each key of `table` whose shape is a secret's file, reads the file into the key without `_file`. Returns the files.
pub(super) fn read(
    path: &str,
    table: &mut Table,
    shape: &TableShape,
    sources: &Sources,
    problems: &mut Vec<Problem>,
) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut files = Vec::new();
    for entry in &table.entries {
        let is_file = shape.fields.get(&entry.name).is_some_and(|field| has_format(&field.shape, "secret-file"));
        let (true, Some(name)) = (is_file, entry.name.strip_suffix(SUFFIX)) else { continue };
        let place = entry.node.place;
        let path_of_key = join(path, &entry.name);
        if let Some(plain) = table.get(name) {
            let what = format!("there is also {}; one of them must go", join(path, name));
            problems.push(Problem::new(path_of_key, what).at(place).also(plain.name_place, "the other one"));
            continue;
        }
        let Some(file) = entry.node.text().filter(|text| !text.is_empty()) else { continue };
        let file = folder(sources, place).join(file);
        let secret = secret(&file);
        files.push(file);
        match secret {
            Ok(secret) => found.push(Entry {
                name: name.to_owned(),
                name_place: entry.name_place,
                node: Node { place, value: Value::Text(Text { text: secret, hidden: true }) },
            }),
            Err(why) => problems.push(Problem::new(path_of_key, why).at(place)),
        }
    }
    table.entries.extend(found);
    files
}

fn has_format(shape: &Shape, format: &str) -> bool {
    matches!(shape, Shape::Text(text) if text.format == format)
}

/// The trimmed content of a file, or why it is none.
fn secret(path: &Path) -> Result<String, String> {
    let bytes = read_bounded(path, SECRET_FILE_BYTES_MAX).map_err(|error| reason(&error))?;
    let text = String::from_utf8(bytes).map_err(|_| "what the file holds is not UTF-8".to_owned())?;
    let text = text.trim().to_owned();
    words::secret(&text).map_err(|wrong| format!("what the file holds will not do: {}", wrong.why))?;
    Ok(text)
}

/// A file of at most `bytes_max`.
pub(super) fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// Why the system would not read a file, in lower case and without the error number.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "it is a folder".to_owned(),
        _ => error.to_string(),
    }
}
