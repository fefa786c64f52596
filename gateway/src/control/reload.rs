//! Loads a configuration beside the one that runs, up to the point where nothing is missing but the change itself.
//!
//! Reading, checking and compiling take as long as the configuration is large, so they run on the offload pool, below the
//! workers in priority; names nobody knows yet are looked up; then one change makes all of it true at once (`Running::apply`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::dns::Known;
use super::endpoints::Directory;
use super::safety;
use super::watch::Watch;
use crate::config::model::Config;
use crate::config::{self, Digest, Loaded};
use crate::lists::Lists;
use crate::observe::metrics::Metrics;
use crate::snapshot::{self, Snapshot};
use crate::tables::health::Health;
use crate::tls::Tls;
use crate::worker::Shared;

/// Warnings about a configuration that are told as events; `bawab check` shows all.
const WARNINGS_LOGGED_MAX: usize = 20;

/// A configuration that can be put into effect.
pub(super) struct Fresh {
    pub(super) config: Config,
    pub(super) digest: Digest,
    pub(super) snapshot: Snapshot,
    pub(super) directory: Directory,
    pub(super) watch: Watch,
}

/// Why there is none.
pub(super) struct Refused {
    /// What is wrong, a line each.
    pub(super) problems: Vec<String>,
    /// Files that were looked at, to be looked at again.
    pub(super) files: Vec<PathBuf>,
}

/// A configuration that was read and compiled, and not resolved.
struct Compiled {
    config: Config,
    digest: Digest,
    snapshot: Snapshot,
    watched: Vec<PathBuf>,
}

impl Compiled {
    fn of(path: &Path, loaded: Loaded, metrics: &Metrics) -> Compiled {
        for warning in loaded.warnings().iter().flat_map(|warnings| warnings.lines()).take(WARNINGS_LOGGED_MAX) {
            tracing::warn!(warning, "in the configuration");
        }
        let snapshot = snapshot::compile(&loaded.config, &loaded.lists, &loaded.tls, metrics);
        let Loaded { config, digest, files, watched, folders, .. } = loaded;
        let watched = [vec![path.to_owned()], files, watched, folders].concat();
        Compiled { config, digest, snapshot, watched }
    }

    async fn resolve(self, known: &Known, metrics: &Metrics, health: &Health) -> Fresh {
        let Compiled { config, digest, mut snapshot, watched } = self;
        let watch = Watch::over(watched);
        let mut directory = Directory::new(&config, &snapshot.tls, known, &metrics.names);
        directory.wait().await;
        directory.fill(&mut snapshot, health);
        Fresh { config, digest, snapshot, directory, watch }
    }
}

impl Fresh {
    /// From a configuration that is loaded already, for the start.
    pub(super) async fn first(path: &Path, loaded: Loaded, known: &Known, metrics: &Metrics, health: &Health) -> Fresh {
        Compiled::of(path, loaded, metrics).resolve(known, metrics, health).await
    }

    /// From a configuration that ran before. `watched`: the files to look at, which say something else.
    pub(super) async fn again(
        config: Config,
        digest: Digest,
        (lists, tls): (&Arc<Lists>, &Arc<Tls>),
        watched: Vec<PathBuf>,
        shared: &Shared,
        known: &Known,
    ) -> Fresh {
        let snapshot = snapshot::compile(&config, lists, tls, &shared.metrics);
        Compiled { config, digest, snapshot, watched }.resolve(known, &shared.metrics, &shared.health).await
    }

    /// Reads the configuration at `path` again. `known`: what is known of names, which then need not be waited for.
    pub(super) async fn load(path: PathBuf, shared: &Shared, known: Known) -> Result<Fresh, Refused> {
        let (done, outcome) = oneshot::channel();
        let metrics = shared.metrics.clone();
        let accepted = shared.pool.submit(Box::new(move || {
            let loaded = config::load(&path);
            // Nobody waits any more when the process is ending.
            let _ = done.send(match loaded {
                Ok(loaded) => Ok(Compiled::of(&path, loaded, &metrics)),
                Err(problems) => {
                    let files = problems.files().map(Path::to_owned).collect();
                    Err(Refused { problems: problems.lines(), files })
                }
            });
        }));
        let lost = |what: &str| Refused { problems: vec![what.to_owned()], files: Vec::new() };
        if !accepted {
            return Err(lost("too much work is queued; try again"));
        }
        match outcome.await {
            Ok(compiled) => {
                let fresh = compiled?.resolve(&known, &shared.metrics, &shared.health).await;
                let problems = safety::refusals(&fresh.config, &fresh.snapshot.lists, &fresh.snapshot);
                if problems.is_empty() { Ok(fresh) } else { Err(Refused { problems, files: Vec::new() }) }
            }
            // A panic is a bug of ours, and no reason to stop serving.
            Err(_) => Err(lost("loading the configuration failed by a mistake of the gateway's; please report it")),
        }
    }
}
