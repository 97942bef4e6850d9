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
    let folders = [&cluster.edge, &cluster.cloud].map(|other| other.state().with_file_name(""));
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

/// A private key as it may lie in memory or in a file: the secret number in the forms libraries keep it in, and a line of
/// its text form where it has one.
struct Key(Vec<Vec<u8>>);

impl Key {
    /// Reads PKCS#8, as it is or as PEM.
    fn read(path: &Path) -> Result<Self> {
        /// Of an EC private key (RFC 5915): version 1, then an octet string of 32 bytes.
        const BEFORE: [u8; 5] = [0x02, 0x01, 0x01, 0x04, 0x20];
        let bytes = fs::read(path).with_context(|| format!("could not read {}", path.display()))?;
        let mut forms = Vec::new();
        let der = if bytes.starts_with(b"-----BEGIN") {
            let text = String::from_utf8(bytes).context("the key's file is no PEM")?;
            let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('-')).collect();
            // The second: the first is the same in every key of the kind.
            forms.push(lines.get(1).context("the key is one line")?.as_bytes().to_vec());
            STANDARD.decode(lines.concat()).context("the key's file is no PEM")?
        } else {
            bytes
        };
        let at = find(&der, &BEFORE).context("the key is no EC key")? + BEFORE.len();
        let secret: [u8; 32] = der.get(at..at + 32).context("the key is cut off")?.try_into()?;
        let reversed = |mut bytes: [u8; 32]| {
            bytes.reverse();
            bytes.to_vec()
        };
        forms.extend([secret.to_vec(), reversed(secret), reversed(montgomery(secret))]);
        Ok(Self(forms))
    }

    fn is_in(&self, bytes: &[u8]) -> bool {
        self.0.iter().any(|form| find(bytes, form).is_some())
    }
}

/// The secret times 2^256, modulo the order of P-256: how ring keeps it for signing, the least byte first.
fn montgomery(secret: [u8; 32]) -> [u8; 32] {
    const ORDER: [u64; 4] =
        [0xf3b9_cac2_fc63_2551, 0xbce6_faad_a717_9e84, 0xffff_ffff_ffff_ffff, 0xffff_ffff_0000_0000];
    let mut number = [0_u64; 4];
    for (word, bytes) in number.iter_mut().zip(secret.rchunks_exact(8)) {
        *word = bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    for _ in 0..256 {
        let carry = number[3] >> 63 == 1;
        for at in (0..4).rev() {
            number[at] = number[at] << 1 | if at > 0 { number[at - 1] >> 63 } else { 0 };
        }
        let mut less = number;
        let mut borrow = false;
        for (word, order) in less.iter_mut().zip(ORDER) {
            let (once, first) = word.overflowing_sub(order);
            let (twice, second) = once.overflowing_sub(u64::from(borrow));
            (*word, borrow) = (twice, first || second);
        }
        if carry || !borrow {
            number = less;
        }
    }
    let mut bytes = [0; 32];
    for (word, bytes) in number.iter().zip(bytes.rchunks_exact_mut(8)) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    bytes
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
