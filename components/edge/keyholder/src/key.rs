//! The key and its file.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use lifecycle::{ConfigError, WithHint};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

/// The key's file in the state directory: PKCS#8 in DER.
const FILE: &str = "node.key";

/// A P-256 key is 138 bytes of PKCS#8; more than 4 KiB is not read.
const MAX_FILE: u64 = 4 * 1024;

/// The node's key pair.
#[derive(Debug)]
pub(crate) struct NodeKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

/// Why a message was not signed: the system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("could not sign: no random bytes from the system")]
pub(crate) struct SignError;

impl NodeKey {
    /// Reads the key from `state_dir`, or makes it there when there is none.
    ///
    /// A file that is there and is no key is an error, never overwritten: it may be all that is left of the node's
    /// identity.
    pub(crate) fn load_or_create(state_dir: &Path) -> anyhow::Result<Self> {
        let path = state_dir.join(FILE);
        let random = SystemRandom::new();
        let der = match read(&path) {
            Ok(Some(der)) => der,
            Ok(None) => create(state_dir, &path, &random)?,
            Err(error) => {
                let message = format!("could not read the node key {}", path.display());
                return Err(anyhow::Error::new(error).context(message));
            }
        };
        match EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der, &random) {
            Ok(pair) => Ok(Self { pair, random }),
            Err(rejected) => Err(damaged(&path, &rejected)),
        }
    }

    /// The public key as an uncompressed point: 65 bytes, 0x04 first.
    pub(crate) fn public_point(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// An ASN.1 DER signature over SHA-256 of `message`.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.pair
            .sign(&self.random, message)
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| SignError)
    }
}

/// Wrong configuration in the sense of the exit code: starting again does not help, a person has to decide.
fn damaged(path: &Path, rejected: &ring::error::KeyRejected) -> anyhow::Error {
    let cause = anyhow::anyhow!("not an ECDSA P-256 key in PKCS#8: {rejected}").context(WithHint::new(
        format!("the node key {} is damaged", path.display()),
        "restore the file, or remove it: the node then makes a new key and joins again with a token",
    ));
    ConfigError::new(cause).into()
}

/// The file's content; `None` when there is no file. Takes away others' access, should someone have granted it.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(file = %path.display(), mode = format!("{:o}", mode & 0o777), "others could read the node key");
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    let mut der = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut der)?;
    Ok(Some(der))
}

fn create(state_dir: &Path, path: &Path, random: &SystemRandom) -> anyhow::Result<Vec<u8>> {
    let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, random)
        .map_err(|_| anyhow::anyhow!("could not make a node key: no random bytes from the system"))?;
    write(state_dir, path, der.as_ref()).map_err(|error| {
        let message = format!("could not write the node key {}", path.display());
        anyhow::Error::new(error)
            .context(WithHint::new(message, "check the free space and the owner of the directory"))
    })?;
    tracing::info!(file = %path.display(), "made a new node key");
    Ok(der.as_ref().to_vec())
}

/// After a power cut there is the whole key or none: written beside, synced, renamed, and the directory synced.
fn write(state_dir: &Path, path: &Path, der: &[u8]) -> io::Result<()> {
    let beside: PathBuf = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(der)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(state_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

    use super::*;

    #[test]
    fn key_persists() {
        let dir = tempfile::tempdir().unwrap();
        let first = NodeKey::load_or_create(dir.path()).unwrap();
        let second = NodeKey::load_or_create(dir.path()).unwrap();
        assert_eq!(first.public_point(), second.public_point());
        assert_eq!((first.public_point().len(), first.public_point()[0]), (65, 4));
    }

    #[test]
    fn signature_verifies() {
        let dir = tempfile::tempdir().unwrap();
        let key = NodeKey::load_or_create(dir.path()).unwrap();
        let signature = key.sign(b"message").unwrap();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_point());
        assert!(public.verify(b"message", &signature).is_ok());
        assert!(public.verify(b"another", &signature).is_err());
    }

    #[test]
    fn key_file_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        NodeKey::load_or_create(dir.path()).unwrap();
        let path = dir.path().join(FILE);
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        NodeKey::load_or_create(dir.path()).unwrap();
        assert_eq!(mode(), 0o600, "access that was granted is taken away");
    }

    #[test]
    fn damaged_key_file_is_refused_by_name_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        for damage in [b"".as_slice(), b"not a key", &[0x30; 8192]] {
            fs::write(&path, damage).unwrap();
            let error = NodeKey::load_or_create(dir.path()).unwrap_err();
            assert!(error.downcast_ref::<ConfigError>().is_some(), "exits 78");
            assert!(format!("{error:#}").contains(path.to_str().unwrap()), "{error:#}");
            assert_eq!(fs::read(&path).unwrap(), damage);
        }
    }

    #[test]
    fn unreadable_key_file_is_not_taken_for_an_absent_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(FILE)).unwrap();
        let error = NodeKey::load_or_create(dir.path()).unwrap_err();
        assert!(format!("{error:#}").contains("could not read the node key"), "{error:#}");
    }

    #[test]
    fn half_written_key_of_an_earlier_start_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("node.new"), "half").unwrap();
        NodeKey::load_or_create(dir.path()).unwrap();
        assert!(!dir.path().join("node.new").exists());
    }
}
