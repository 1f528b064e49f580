//! What is to be done about the plugin folder. A pure function of what runs, what lies in the folder, and
//! what failed before: it does no IO and keeps no state.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::inbox::Found;
use super::record;
use crate::log::PluginRecord;
use crate::outcome::Digest;
use crate::policy::Manifest;

/// A component with its manifest's text: what is deployed, as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) digest: Digest,
    pub(crate) text: Arc<str>,
}

/// A consumer whose version is recorded.
#[derive(Clone, Debug)]
pub(crate) struct Active {
    pub(crate) record: PluginRecord,
    /// What it was built as; not known of one that could not be loaded.
    pub(crate) kind: Option<&'static str>,
    /// The subscriptions that it declares.
    pub(crate) subscriptions: Vec<String>,
    /// The topics that it may publish to.
    pub(crate) publish: Vec<String>,
    pub(crate) http: Vec<String>,
    /// Why it does not run although it is recorded, if it does not.
    pub(crate) down: Option<String>,
}

impl Active {
    pub(crate) fn is_version(&self, version: &Version) -> bool {
        self.record.digest == version.digest && self.record.manifest == *version.text
    }
}

/// What could not be done.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// The version that could not be deployed; `None` where the consumer could not be removed.
    pub(crate) version: Option<Version>,
    pub(crate) problem: String,
    /// Whether it may work at the next look, with the same files.
    pub(crate) passing: bool,
}

/// What is known from before, by stem.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) active: BTreeMap<String, Active>,
    pub(crate) failures: BTreeMap<String, Failure>,
}

/// One step. Afterwards the plan is made again, for a step changes what the next one stands on.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Deploy { stem: String, version: Version, manifest: Arc<Manifest> },
    Remove { stem: String },
}

/// What to do next, and why which files are not what runs.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) next: Option<Step>,
    /// By stem. Consumers whose files are unsettled have none here.
    pub(crate) problems: BTreeMap<String, String>,
}

/// Makes the plan. Removals come first, then deployments, in the order of the stems. A name belongs to
/// the consumer whose active version declares it; of two newcomers, to the first.
pub(crate) fn plan(folder: &Path, known: &Known, found: &BTreeMap<String, Found>) -> Plan {
    let mut plan = Plan::default();
    let mut deploy = None;
    for (stem, found) in found {
        let active = known.active.get(stem);
        match found {
            Found::Unsettled => {}
            Found::Gone => match known.failures.get(stem).filter(|failure| failure.version.is_none()) {
                Some(failure) => drop(plan.problems.insert(stem.clone(), failure.problem.clone())),
                None if active.is_some() => {
                    plan.next.get_or_insert_with(|| Step::Remove { stem: stem.clone() });
                }
                None => {}
            },
            Found::Unusable { problem } => drop(plan.problems.insert(stem.clone(), problem.clone())),
            Found::Pair { digest, manifest } => {
                let version = Version { digest: *digest, text: manifest.text.clone() };
                let refused = match &manifest.manifest {
                    Err(error) => Some(error.to_string()),
                    Ok(_) if is_running(active, &version) => continue,
                    Ok(manifest) => refusal(folder, known, stem, active, &version, manifest),
                };
                match (refused, &manifest.manifest) {
                    (None, Ok(manifest)) => {
                        deploy.get_or_insert_with(|| Step::Deploy {
                            stem: stem.clone(),
                            version,
                            manifest: manifest.clone(),
                        });
                    }
                    (refused, _) => plan.problems.extend(refused.map(|problem| (stem.clone(), problem))),
                }
            }
        }
    }
    for (stem, active) in &known.active {
        if let Some(down) = &active.down {
            plan.problems.entry(stem.clone()).or_insert_with(|| down.clone());
        }
    }
    plan.next = plan.next.or(deploy);
    plan
}

fn is_running(active: Option<&Active>, version: &Version) -> bool {
    active.is_some_and(|active| active.down.is_none() && active.is_version(version))
}

/// Why a valid pair is not deployed, if it is not.
fn refusal(
    folder: &Path,
    known: &Known,
    stem: &str,
    active: Option<&Active>,
    version: &Version,
    manifest: &Manifest,
) -> Option<String> {
    if let Some(mark) = active.and_then(|active| record::mark(&active.record, version)) {
        return Some(format!(
            "{} was rolled back ({}), and is not deployed again by itself; `sandpost plugins deploy` does it all the same",
            version.digest.short(),
            mark.why
        ));
    }
    for name in manifest.subscriptions.iter().map(|spec| &spec.name) {
        let holder = known.active.iter().find(|(other, active)| *other != stem && active.subscriptions.contains(name));
        if let Some((other, _)) = holder {
            let file = |stem: &str| -> PathBuf { folder.join(format!("{stem}.toml")) };
            return Some(format!(
                "{} claims the subscription `{name}`, which belongs to {}; give one of them another `name`",
                file(stem).display(),
                file(other).display()
            ));
        }
    }
    known
        .failures
        .get(stem)
        .filter(|failure| failure.version.as_ref() == Some(version))
        .map(|failure| failure.problem.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::inbox::Text;
    use super::super::manifest;
    use super::*;
    use crate::log::Cause;

    const STEMS: [&str; 4] = ["analytics", "billing", "email", "stock"];

    fn digest(number: u8) -> Digest {
        Digest([number; 32])
    }

    /// A manifest whose subscriptions have these names.
    fn text(names: &[&str]) -> String {
        names.iter().map(|name| format!("[[subscription]]\nname = \"{name}\"\ntopics = [\"a\"]\n")).collect()
    }

    fn pair(number: u8, text: &str) -> Found {
        let parsed = manifest::parse("stem", Path::new("stem.toml"), text);
        let manifest = Text { text: text.into(), manifest: parsed.map(Arc::new).map_err(Arc::new) };
        Found::Pair { digest: digest(number), manifest }
    }

    fn active(number: u8, names: &[&str]) -> Active {
        let version = Version { digest: digest(number), text: text(names).into() };
        let record = record::deployed(None, &version, 1, Cause::Folder, false, None);
        let subscriptions = names.iter().map(|name| (*name).to_owned()).collect();
        Active { record, kind: None, subscriptions, publish: vec![], http: vec![], down: None }
    }

    fn planned(known: &Known, found: &[(&str, Found)]) -> Plan {
        let found = found.iter().map(|(stem, found)| ((*stem).to_owned(), found.clone())).collect();
        plan(Path::new("plugins"), known, &found)
    }

    /// The step in short: `+stem` or `-stem`.
    fn short(plan: &Plan) -> String {
        match &plan.next {
            None => String::new(),
            Some(Step::Deploy { stem, .. }) => format!("+{stem}"),
            Some(Step::Remove { stem }) => format!("-{stem}"),
        }
    }

    #[test]
    fn only_what_differs_is_deployed() {
        let known = Known { active: BTreeMap::from([("email".into(), active(1, &["email"]))]), ..Known::default() };
        let mail = text(&["email"]);
        assert_eq!(short(&planned(&known, &[("email", pair(1, &mail))])), "");
        assert_eq!(short(&planned(&known, &[("email", pair(2, &mail))])), "+email");
        assert_eq!(short(&planned(&known, &[("email", pair(1, &text(&["letters"])))])), "+email");
        assert_eq!(short(&planned(&known, &[("email", Found::Unsettled)])), "");
        assert_eq!(short(&planned(&known, &[("email", Found::Gone)])), "-email");
        let half = Found::Unusable { problem: "half".into() };
        let plan = planned(&known, &[("email", half), ("stock", pair(1, &text(&["stock"])))]);
        assert_eq!((short(&plan).as_str(), plan.problems["email"].as_str()), ("+stock", "half"));
    }

    #[test]
    fn what_could_not_be_started_is_deployed_again_though_it_does_not_differ() {
        let mut email = active(1, &["email"]);
        email.down = Some("damaged".into());
        let known = Known { active: BTreeMap::from([("email".into(), email)]), ..Known::default() };
        let plan = planned(&known, &[("email", pair(1, &text(&["email"])))]);
        assert_eq!((short(&plan).as_str(), plan.problems["email"].as_str()), ("+email", "damaged"));
    }

    #[test]
    fn a_version_that_failed_is_not_tried_again_until_it_changes() {
        let version = Version { digest: digest(2), text: text(&["email"]).into() };
        let failure = Failure { version: Some(version), problem: "no `handle`".into(), passing: false };
        let known = Known {
            active: BTreeMap::from([("email".into(), active(1, &["email"]))]),
            failures: BTreeMap::from([("email".into(), failure)]),
        };
        let plan = planned(&known, &[("email", pair(2, &text(&["email"])))]);
        assert_eq!((short(&plan).as_str(), plan.problems["email"].as_str()), ("", "no `handle`"));
        assert_eq!(short(&planned(&known, &[("email", pair(3, &text(&["email"])))])), "+email");
        assert_eq!(short(&planned(&known, &[("email", Found::Gone)])), "-email");
    }

    #[test]
    fn what_was_rolled_back_stays_so() {
        let mut email = active(1, &["email"]);
        let bad = Version { digest: digest(2), text: text(&["email"]).into() };
        let deployed = record::deployed(Some(&email.record), &bad, 2, Cause::Folder, true, None);
        let why = "6 of 31 messages failed".to_owned();
        email.record = record::gone_back(&deployed, 1, 3, Cause::Probation, None, why).unwrap();
        let known = Known { active: BTreeMap::from([("email".into(), email)]), ..Known::default() };
        let plan = planned(&known, &[("email", pair(2, &text(&["email"])))]);
        assert_eq!(short(&plan), "");
        assert!(plan.problems["email"].contains("was rolled back (6 of 31 messages failed)"), "{plan:?}");
    }

    #[test]
    fn a_name_claimed_twice_names_both_files() {
        let known = Known { active: BTreeMap::from([("email".into(), active(1, &["email"]))]), ..Known::default() };
        let plan = planned(&known, &[("billing", pair(2, &text(&["bills", "email"])))]);
        assert_eq!(short(&plan), "");
        let expected = "plugins/billing.toml claims the subscription `email`, which belongs to plugins/email.toml; give one of them another `name`";
        assert_eq!(plan.problems["billing"], expected);
        // It is free once its holder is gone.
        let gone = [("billing", pair(2, &text(&["bills", "email"]))), ("email", Found::Gone)];
        assert_eq!(short(&planned(&known, &gone)), "-email");
    }

    #[derive(Clone, Debug)]
    enum Lies {
        Nothing,
        Unsettled,
        Half,
        Invalid,
        Pair(u8, Vec<usize>),
    }

    fn lies() -> impl Strategy<Value = Lies> {
        prop_oneof![
            2 => Just(Lies::Nothing),
            1 => Just(Lies::Unsettled),
            1 => Just(Lies::Half),
            1 => Just(Lies::Invalid),
            6 => (0..6u8, prop::collection::btree_set(0..STEMS.len(), 1..3))
                .prop_map(|(number, names)| Lies::Pair(number, names.into_iter().collect())),
        ]
    }

    proptest! {
        /// Folders follow each other; after each, the plan is carried out to its end. Components with an
        /// odd number fail to load.
        #[test]
        fn every_plan_ends_and_does_what_is_promised(
            folders in prop::collection::vec(prop::collection::vec(lies(), STEMS.len()), 1..8),
        ) {
            let mut known = Known::default();
            for folder in folders {
                let mut found = BTreeMap::new();
                for (stem, lies) in STEMS.iter().zip(&folder) {
                    let found_here = match lies {
                        Lies::Nothing if !known.active.contains_key(*stem) => continue,
                        Lies::Nothing => Found::Gone,
                        Lies::Unsettled => Found::Unsettled,
                        Lies::Half => Found::Unusable { problem: "half".into() },
                        Lies::Invalid => pair(0, "nonsense"),
                        Lies::Pair(number, names) => {
                            pair(*number, &text(&names.iter().map(|name| STEMS[*name]).collect::<Vec<_>>()))
                        }
                    };
                    found.insert((*stem).to_owned(), found_here);
                }
                let before = known.active.clone();
                let mut steps = 0;
                let last = loop {
                    let plan = plan(Path::new("plugins"), &known, &found);
                    steps += 1;
                    prop_assert!(steps <= 2 * STEMS.len() + 1, "the plan does not end: {plan:?}");
                    match plan.next {
                        None => break plan,
                        Some(Step::Remove { stem }) => drop(known.active.remove(&stem)),
                        Some(Step::Deploy { stem, version, .. }) if version.digest.0[0] % 2 == 1 => {
                            let failure = Failure { version: Some(version), problem: "fails".into(), passing: false };
                            known.failures.insert(stem, failure);
                        }
                        Some(Step::Deploy { stem, version, manifest }) => {
                            let names: Vec<_> = manifest.subscriptions.iter().map(|spec| spec.name.as_str()).collect();
                            known.active.insert(stem, active(version.digest.0[0], &names));
                        }
                    }
                };
                // No name is held twice.
                let mut names = BTreeSet::new();
                for name in known.active.values().flat_map(|active| &active.subscriptions) {
                    prop_assert!(names.insert(name.clone()), "`{name}` is held twice");
                }
                for (stem, found) in &found {
                    let now = known.active.get(stem);
                    match found {
                        Found::Gone => prop_assert!(now.is_none()),
                        // Each runs what lies there, or its problem is told and what ran goes on running.
                        Found::Pair { digest, manifest } => {
                            let version = Version { digest: *digest, text: manifest.text.clone() };
                            let runs = now.is_some_and(|active| active.is_version(&version));
                            prop_assert_eq!(runs, !last.problems.contains_key(stem), "{}: {:?}", stem, &last);
                            prop_assert!(runs || now.map(|a| &a.record) == before.get(stem).map(|a| &a.record));
                        }
                        Found::Unsettled | Found::Unusable { .. } => {
                            prop_assert_eq!(now.map(|a| &a.record), before.get(stem).map(|a| &a.record));
                        }
                    }
                }
            }
        }
    }
}
