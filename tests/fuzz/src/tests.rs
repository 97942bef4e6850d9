use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, panic};

use super::*;

/// Damaged copies of each seed. More is what libFuzzer is for.
const COPIES: usize = 100;

/// The seeds of a target, by file name.
fn seeds(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut seeds: Vec<_> = files
        .map(|file| file.expect("a folder of ours"))
        .map(|file| (file.file_name().to_string_lossy().into_owned(), fs::read(file.path()).expect("a seed")))
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{} has no seeds", folder.display());
    seeds
}

fn try_on(target: &Target, seed: &str, bytes: &[u8]) {
    let passed = panic::catch_unwind(|| (target.run)(bytes)).is_ok();
    assert!(passed, "{} failed on {seed}, damaged to {}", target.name, bytes.escape_ascii());
}

#[test]
fn no_target_fails_on_its_seeds_or_on_damaged_copies() {
    for target in &TARGETS {
        let mut random = fastrand::Rng::with_seed(0x61_7069_6172_7921);
        for (name, seed) in seeds(target) {
            try_on(target, &name, &seed);
            for _ in 0..COPIES {
                try_on(target, &name, &damaged(&seed, &mut random));
            }
        }
        try_on(target, "nothing", &[]);
    }
}

/// A few bytes flipped, cut out, doubled or put in.
fn damaged(seed: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..random.usize(1..5) {
        let at = random.usize(..=bytes.len());
        match random.u8(..5) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
            1 => bytes.insert(at, random.u8(..)),
            2 => bytes.truncate(at),
            3 if at < bytes.len() => drop(bytes.remove(at)),
            _ => {
                let again = bytes[random.usize(..=at)..at].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
    bytes
}

#[test]
fn every_generated_message_is_a_target() {
    let generated = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto/src/gen");
    let mut expected = BTreeSet::new();
    for file in fs::read_dir(generated).expect("generated code").map(|file| file.expect("a folder of ours")) {
        let text = fs::read_to_string(file.path()).expect("generated code");
        let module = file.path().file_stem().expect("a file name").to_string_lossy().into_owned();
        for after in text.split("::prost::Message)]\n").skip(1) {
            let item = after.lines().find_map(|line| line.strip_prefix("pub struct "));
            let name = item.expect("a message is a struct").trim_end_matches([' ', '{', '}']);
            expected.insert(format!("{module}::{name}"));
        }
    }
    let covered: BTreeSet<_> = bus::MESSAGES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(covered, expected);
}

#[test]
fn every_folder_of_seeds_has_its_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for folder in fs::read_dir(corpus).expect("the corpus").map(|folder| folder.expect("a folder of ours")) {
        let name = folder.file_name();
        assert!(name.to_str().and_then(find).is_some(), "{} is no target", name.display());
    }
}
