//! From TOML text to a [`Config`] that holds together, or every problem it has.
//!
//! `bawab run` and `bawab check` call [`load`], and nothing else reads configuration. The way of a file: `read` parses
//! it, follows `include` and merges the trees; `walk` checks the one tree against the `shape` of the model; `checks`
//! looks at what belongs together; then serde makes a [`Config`]. Each step reports what it can, so that one run shows
//! every problem. A file that loads has no problem: serde finds nothing that was not found before.

pub mod model;
pub mod origin;
pub mod policies;
pub mod template;
pub mod units;
pub mod words;

mod checks;
mod digest;
mod dns_name;
mod expand;
mod places;
mod rates;
mod read;
mod routes;
mod secrets;
mod shape;
mod subsets;
mod tree;
mod veil;
mod walk;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize as _;

pub use digest::Digest;
pub use model::Config;
pub use shape::schema;

use crate::lists::{self, Lists};
use crate::problem::{PROBLEMS_MAX, Place, Problem, Problems, Sources};
use crate::tls::{self, Tls};
use places::Places;

/// A configuration without problems, and what is needed to point into its text.
pub struct Loaded {
    pub config: Config,
    /// The files that were read, the first one first.
    pub files: Vec<PathBuf>,
    /// Files with secrets, lists and certificates that were read, and folders in which files were looked for: with `files`, all that it
    /// depends on.
    pub watched: Vec<PathBuf>,
    pub folders: Vec<PathBuf>,
    pub digest: Digest,
    /// Address lists, read and compiled.
    pub lists: Arc<Lists>,
    /// Certificates, read and checked.
    pub tls: Arc<Tls>,
    /// What is worth knowing and no reason to refuse.
    pub warnings: Vec<Problem>,
    places: Places,
    sources: Arc<Sources>,
}

impl Loaded {
    /// Where `key` (`route[2].upstream`) was written, or the table it would be in.
    pub fn place(&self, key: &str) -> Option<Place> {
        self.places.find(key)
    }

    /// File and line of `key`, as compilers write it.
    pub fn line(&self, key: &str) -> Option<String> {
        let place = self.place(key)?;
        let (line, _) = self.sources.line_column(place)?;
        Some(format!("{}:{line}", self.sources.path(place.file)?.display()))
    }

    /// A problem at `key`, for what only shows when the configuration is compiled.
    pub fn problem(&self, key: &str, what: impl Into<String>) -> Problem {
        Problem::new(key, what).at(self.place(key))
    }

    /// What is worth knowing, ready to be shown with the lines it is about.
    pub fn warnings(&self) -> Option<Problems> {
        let list = self.warnings.clone();
        (!list.is_empty()).then(|| Problems::warnings(list, Arc::clone(&self.sources)))
    }

    /// Makes what was found ready to be shown with the lines it is about.
    pub fn problems(&self, list: Vec<Problem>) -> Problems {
        Problems::new(list, Arc::clone(&self.sources))
    }
}

/// How a problem begins that only serde found.
const MISSED: &str = "the configuration does not fit together";

/// Reads the file at `path` and everything it includes, with this process's environment.
pub fn load(path: &Path) -> Result<Loaded, Problems> {
    load_with(path, &|name| std::env::var(name).ok())
}

/// [`load`] without address lists and certificates, which may be long or not for everybody to read, and need not be right for a
/// question about something else.
pub fn load_without_files(path: &Path) -> Result<Loaded, Problems> {
    load_as(path, &|name| std::env::var(name).ok(), false)
}

/// [`load`] with an environment of one's own.
pub fn load_with(path: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Problems> {
    load_as(path, environment, true)
}

fn load_as(path: &Path, environment: &dyn Fn(&str) -> Option<String>, with_files: bool) -> Result<Loaded, Problems> {
    let shape = shape::config();
    let read::Read { mut tree, sources, problems, complete, folders } = read::read(path, shape, environment)?;
    let mut walk = walk::Walk { environment, sources: &sources, root: shape, problems, secret_files: Vec::new() };
    walk.check("", &mut tree, shape);
    let walk::Walk { mut problems, secret_files, .. } = walk;
    // What a file that could not be read defines would be missed everywhere.
    if complete && problems.len() < PROBLEMS_MAX {
        checks::all(&tree, &mut problems);
    }
    let sources = Arc::new(sources);
    let places = Places::of(&tree);
    if !problems.is_empty() {
        let routes = routes::readable(&tree, &problems);
        let routes: Vec<(usize, &model::Route)> = routes.iter().map(|(index, route)| (*index, route)).collect();
        problems.extend(routes::between(&routes, &places).0);
        return Err(Problems::new(problems, sources));
    }
    let files = sources.paths().map(Path::to_owned).collect();
    let digest = Digest::of(&tree, &veil::Veil::new(shape));
    match Config::deserialize(tree.into_toml()) {
        Ok(config) => {
            let routes: Vec<(usize, &model::Route)> = config.route.iter().enumerate().collect();
            let (mut problems, mut warnings) = routes::between(&routes, &places);
            let (too_many, unmatched) = subsets::between(&config, &places);
            problems.extend(too_many);
            warnings.extend(unmatched);
            warnings.extend(rates::warnings(&config, &places));
            let folder = |key: &str| match places.find(key) {
                Some(place) => walk::folder(&sources, place).to_owned(),
                None => path.parent().unwrap_or(Path::new("")).to_owned(),
            };
            let read = match with_files {
                true => lists::read(&config, &folder, &|key| places.find(key)),
                false => lists::Read::default(),
            };
            problems.extend(read.problems);
            warnings.extend(read.warnings);
            let tls = match with_files {
                true => tls::read(&config, &folder, &|key| places.find(key)),
                false => tls::Read::default(),
            };
            problems.extend(tls.problems);
            warnings.extend(tls.warnings);
            let mut compiled = Lists::default();
            if problems.is_empty() {
                match Lists::compile(&config, &read.readings, &folder) {
                    Ok(lists) => compiled = lists,
                    Err(why) => problems.push(Problem::new("list", why.0.to_string()).at(places.find("list"))),
                }
            }
            let watched = [secret_files, read.files, tls.files].concat();
            if !problems.is_empty() {
                return Err(Problems::new(problems, sources).about_files(watched));
            }
            let digest = digest.with(&compiled.digest()).with(&tls.tls.digest());
            let (lists, tls) = (Arc::new(compiled), Arc::new(tls.tls));
            Ok(Loaded { config, files, watched, folders, digest, lists, tls, warnings, places, sources })
        }
        Err(error) => {
            // The walk knows less than serde, which is a mistake of ours; the operator still needs to know.
            let what = format!("{MISSED}: {}", error.message());
            Err(Problems::new(vec![Problem::new("", what).at(Place::whole(0))], sources))
        }
    }
}

#[cfg(test)]
mod tests;
