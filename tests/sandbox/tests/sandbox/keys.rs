//! The keys apart: on a running cluster, the private key is in the file and in the memory of the process that signs with
//! it, and nowhere else.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use harness::{Cluster, Side, Supervisor};

/// Who holds the side's key, and in which file of its state.
fn holder(side: Side) -> (&'static str, &'static str) {
    match side {
        Side::Edge => ("keyholder", "node.key"),
        Side::Cloud => ("authority", "rootCA.key"),
    }
}

pub(crate) fn apart(cluster: &mut Cluster, side: Side) -> Result<()> {
    let supervisor = if side == Side::Edge { &cluster.edge } else { &cluster.cloud };
    let (holder, file) = holder(side);
    let path = supervisor.state().join(holder).join(file);
    let key = Key::read(&path)?;

    ensure!(
        holds(pid(supervisor, holder)?, &key)?,
        "{holder} does not hold the key: this test looks for the wrong bytes"
    );
    let mut searched = Vec::new();
    let others = [&cluster.edge, &cluster.cloud].into_iter().flat_map(|other| {
        let components = other.components().unwrap_or_default();
        components.into_iter().map(move |component| (component.name, component.pid))
    });
    let supervisors = [&cluster.edge, &cluster.cloud]
        .into_iter()
        .filter_map(|other| Some((other.side().program().to_owned(), other.pid()?)));
    for (name, pid) in others.chain(supervisors).filter(|(name, _)| name != holder) {
        ensure!(!opens(pid, &path)?, "{name} has the key's file open or mapped");
        ensure!(!holds(pid, &key)?, "the key is in the memory of {name}");
        searched.push(name);
    }
    ensure!(searched.len() >= 9, "only {} were searched", searched.join(", "));

    let mut copies = Vec::new();
    let folders = [&cluster.edge, &cluster.cloud].map(|other| other.config().with_file_name(""));
    for folder in folders {
        files_with(&folder, &key, &mut copies)?;
    }
    ensure!(copies == [path.clone()], "the key is in {copies:?}, not in {} alone", path.display());
    println!(
        "\n    {holder} holds {file}; not in the memory of {}, and in no other file",
        searched.join(", ")
    );
    Ok(())
}

fn pid(supervisor: &Supervisor, name: &str) -> Result<i32> {
    Ok(supervisor.component(name)?.pid)
}

/// A private key as it may lie in memory or in a file.
struct Key {
    /// The secret number itself.
    secret: Vec<u8>,
    /// A line of its text form.
    line: Vec<u8>,
}

impl Key {
    fn read(path: &Path) -> Result<Self> {
        /// Of an EC private key (RFC 5915): version 1, then an octet string of 32 bytes.
        const BEFORE: [u8; 5] = [0x02, 0x01, 0x01, 0x04, 0x20];
        let text = fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(lines.concat()).context("the key's file is no PEM")?;
        let at = find(&der, &BEFORE).context("the key is no EC key")? + BEFORE.len();
        let secret = der.get(at..at + 32).context("the key is cut off")?.to_vec();
        // The second: the first is the same in every key of the kind.
        let line = lines.get(1).context("the key is one line")?.as_bytes().to_vec();
        Ok(Self { secret, line })
    }

    fn is_in(&self, bytes: &[u8]) -> bool {
        find(bytes, &self.secret).is_some() || find(bytes, &self.line).is_some()
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = wanted.first()?;
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| byte == first).map(|at| at + from) {
        if bytes[at..].starts_with(wanted) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

/// Whether a process has this file open, or mapped.
fn opens(pid: i32, file: &Path) -> Result<bool> {
    let wanted = fs::metadata(file)?;
    let same = |path: PathBuf| {
        fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
    };
    for folder in ["fd", "map_files"] {
        let folder = PathBuf::from(format!("/proc/{pid}/{folder}"));
        let entries =
            fs::read_dir(&folder).with_context(|| format!("could not list {}", folder.display()))?;
        if entries.flatten().any(|entry| same(entry.path())) {
            return Ok(true);
        }
    }
    let name = file.file_name().context("a file has a name")?.to_string_lossy().into_owned();
    Ok(fs::read_to_string(format!("/proc/{pid}/maps"))?.lines().any(|line| line.ends_with(&name)))
}

/// Whether the key is anywhere in a process's memory.
fn holds(pid: i32, key: &Key) -> Result<bool> {
    /// Read at a time; a key that lies across two reads is found because they overlap.
    const CHUNK: usize = 1 << 20;
    const OVERLAP: usize = 128;
    let memory = File::open(format!("/proc/{pid}/mem")).context("could not open a process's memory")?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut buffer = vec![0; CHUNK];
    let mut seen = 0;
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let range = fields.next().and_then(|range| range.split_once('-'));
        let (Some((from, to)), Some(rights)) = (range, fields.next()) else { continue };
        if !rights.starts_with('r') {
            continue;
        }
        let (mut at, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        while at < to {
            let length = usize::try_from(to - at).unwrap_or(CHUNK).min(CHUNK);
            // Pages of devices and of files that became shorter cannot be read.
            let Ok(read) = memory.read_at(&mut buffer[..length], at) else { break };
            if read == 0 {
                break;
            }
            seen += read;
            if key.is_in(&buffer[..read]) {
                return Ok(true);
            }
            at +=
                if read > OVERLAP && at + (read as u64) < to { (read - OVERLAP) as u64 } else { read as u64 };
        }
    }
    ensure!(seen > 0, "nothing of the memory of process {pid} could be read");
    Ok(false)
}

/// Every regular file below `folder` that holds the key.
fn files_with(folder: &Path, key: &Key, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("could not list {}", folder.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files_with(&entry.path(), key, found)?;
        } else if kind.is_file() && fs::read(entry.path()).is_ok_and(|bytes| key.is_in(&bytes)) {
            found.push(entry.path());
        }
    }
    Ok(())
}
