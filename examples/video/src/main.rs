//! Videos that are too large for a message, and a consumer of which there are as many as the backlog needs.
//!
//! 1. A film is published as a message, and refused: it is too large. So films go into a store (here a folder that is
//!    served over HTTP), and messages have their addresses, as the CloudEvents attribute `dataref`.
//! 2. Some uploads come one by one: one instance of the consumer does.
//! 3. All others come at once. Instances are made, up to the `concurrency` in the manifest, and compete for the uploads;
//!    the lag falls, and when it is gone all previews are there. They are the bytes that the same code makes
//!    outside of the sandbox. What is no film is a dead letter, and holds up nobody.

mod store;
mod uploads;

use std::collections::BTreeMap;
use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Parser;
use example_harness::screen::{self, Story, Tone};
use example_harness::{Bus, Checks, Client, Event, Places, Subscription, wait_for};

use crate::store::Store;
use crate::uploads::Upload;

/// Where the manifest says that uploads are.
const SHIPPED_STORE: &str = "http://127.0.0.1:8000/uploads/";
/// `config.shrink` of the manifest.
const SHRINK: usize = 4;
const NAME: &str = "transcoder";
const TOPIC: &str = "video.uploaded";

/// Upload videos by reference, and see the consumer grow with its backlog.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    places: Places,
    /// How many videos are uploaded one by one, before all others.
    #[arg(long, default_value_t = 3)]
    singly: usize,
    /// How many are uploaded at once, the one that is no video included; at most 1,000.
    #[arg(long, default_value_t = 60)]
    at_once: usize,
}

fn main() -> ExitCode {
    screen::ended(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("sandpost-uploads-").tempdir()?;
    let uploads = uploads::write(folder.path(), arguments.singly + arguments.at_once, SHRINK)?;
    let store = Store::open(folder.path())?;
    let prepared = Bus::prepare(&arguments.places)?;
    let manifest = fs::read_to_string(arguments.places.guest("transcoder.toml")?)?;
    let manifest = manifest.replace(SHIPPED_STORE, &store.url());
    prepared.add(NAME, &arguments.places.guest("transcoder.wasm")?, &manifest)?;
    let film = fs::read(folder.path().join(&uploads[0].name))?;
    prepared.start_before_eyes()?.live(|bus| show(bus.client(), &store, &film, &uploads, arguments.singly))
}

fn show(client: &Client, store: &Store, film: &[u8], uploads: &[Upload], singly: usize) -> Result<()> {
    wait_for("the consumer to run", || {
        Ok(client.plugins()?.iter().any(|plugin| plugin.status == "running").then_some(()))
    })?;
    let mut checks = Checks::new();
    screen::heading(&format!("A film has {} bytes. Published as it is:", film.len()));
    let (status, problem) = client.publish_plain(TOPIC, transcoder::CONTENT_TYPE, film)?;
    screen::print(&format!("  {status} {}", problem["detail"].as_str().unwrap_or_default()));
    screen::print(&format!("  {}", problem["hint"].as_str().unwrap_or_default()));
    checks.equal("answer to a film as a message", status, 413);

    let (first, others) = uploads.split_at(singly);
    screen::heading(&format!(
        "{} films go into a store, and their addresses on the bus: {singly} one by one, then {} at once.",
        uploads.len() - 1,
        others.len()
    ));
    let story = Story::default();
    let mut most_before = 0;
    for (number, upload) in first.iter().enumerate() {
        client.publish(TOPIC, &uploaded(store, upload)?)?;
        let one = wait_for("an upload to be transcoded", || {
            let one = client.subscription(NAME)?;
            most_before = most_before.max(one.instances);
            Ok((one.acked == number as u64 + 1).then_some(one))
        })?;
        tell(&story, &one);
    }
    let events = others.iter().map(|upload| uploaded(store, upload)).collect::<Result<Vec<_>>>()?;
    client.publish_batch(TOPIC, &events)?;
    let looks = drain(client, &story)?;

    screen::heading("What the bus says in the end, and what it must be");
    let most = looks.iter().map(|one| one.instances).max().unwrap_or(0);
    let allowed = looks.first().map_or(0, |one| one.concurrency);
    // A film may come before the last one's instance is put by, and gets one of its own.
    checks.holds("instances while films came one by one", most_before, "1 or 2", (1..=2).contains(&most_before));
    checks.holds(
        "instances while there was a backlog",
        most,
        &format!("2 to {allowed}"),
        (2..=allowed).contains(&most),
    );
    let falls = looks.is_sorted_by(|one, next| one.pending >= next.pending);
    checks.holds(
        "looks at the backlog, each with no more than before",
        looks.len(),
        "2 or more",
        falls && looks.len() > 1,
    );
    check(client, store, uploads, &mut checks)?;
    checks.conclude()?;
    screen::print("Every film has its preview.");
    Ok(())
}

/// The event of an upload: where it is, and not what it is.
fn uploaded<'a>(store: &Store, upload: &'a Upload) -> Result<Event<'a>> {
    let event = Event::by_reference(&upload.name, "/studio", "com.example.video.uploaded", store.url() + &upload.name);
    Ok(event.subject(&upload.name))
}

/// Looks, and tells what changed, until nothing is left.
fn drain(client: &Client, story: &Story) -> Result<Vec<Subscription>> {
    let mut looks: Vec<Subscription> = Vec::new();
    wait_for("the backlog to be gone", || {
        let one = client.subscription(NAME)?;
        let is_over = one.pending == 0;
        if looks.last().is_none_or(|last| last.pending != one.pending) {
            tell(story, &one);
            looks.push(one);
        }
        Ok(is_over.then_some(()))
    })?;
    Ok(looks)
}

fn tell(story: &Story, one: &Subscription) {
    let bar = "#".repeat(usize::try_from(one.pending).unwrap_or(usize::MAX).min(80));
    let (count, lag, age) = (one.instances, one.pending, one.oldest_pending_seconds);
    let what = format!("instances {count:>2}   lag {lag:>3} films, {age:.1} s  {bar}");
    story.tell(if lag == 0 { Tone::Good } else { Tone::Plain }, NAME, what.trim_end());
}

/// Every film has one preview, with the right bytes; what is none is a dead letter.
fn check(client: &Client, store: &Store, uploads: &[Upload], checks: &mut Checks) -> Result<()> {
    let films: BTreeMap<&str, &[u8]> =
        uploads.iter().filter_map(|upload| Some((upload.name.as_str(), upload.preview.as_deref()?))).collect();
    let one = client.subscription(NAME)?;
    let (matched, acked) = (uploads.len() as u64, films.len() as u64);
    let figures = [
        ("matched", one.matched, matched),
        ("acked", one.acked, acked),
        ("dead", one.dead, matched - acked),
        ("skipped", one.expired + one.skipped, 0),
        ("pending", one.pending, 0),
    ];
    checks.row(NAME, &figures);
    let by_reference = client.messages(TOPIC)?.iter().filter(|message| message.dataref.is_some()).count();
    checks.equal("uploads on the bus by reference", by_reference, uploads.len());
    checks.holds("fetched from the store", store.fetched(), "each upload", store.fetched() >= uploads.len());

    let previews = client.messages_once("video.preview", acked)?;
    checks.equal("previews", previews.len(), films.len());
    let mut right = BTreeMap::new();
    for preview in &previews {
        let name = preview.subject.as_deref().context("a preview has its film's name")?;
        let data = preview.data_base64.as_deref().context("a preview is bytes")?;
        right.insert(name, films.get(name) == Some(&&*BASE64_STANDARD.decode(data)?));
    }
    checks.equal("films with the right preview", right.values().filter(|right| **right).count(), films.len());

    let letters = client.dead_letters(NAME)?;
    let said = letters.iter().flat_map(|letter| &letter.attempts).any(|attempt| attempt.text.contains("byte 0"));
    checks.holds("what the dead letter says", if said { "byte 0" } else { "else" }, "byte 0 begins no frame", said);
    Ok(())
}
