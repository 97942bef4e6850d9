//! The CA on disk: `rootCA.crt` and `rootCA.key`, KubeEdge's names and PEM forms, so its CA can be taken over by copying.

use std::path::Path;

use anyhow::Context as _;
use lifecycle::ConfigError;
use pki::{CertificateAuthority, read_bounded, write_durable};

const CERTIFICATE: &str = "rootCA.crt";
const KEY: &str = "rootCA.key";

/// 64 KiB: a certificate or key of ours is under 2 KiB.
const LIMIT: u64 = 64 * 1024;

/// Loads the CA, or makes it on first start. A certificate without its key needs a person: making a new CA would cut off
/// every joined edge.
pub(crate) fn open(directory: &Path) -> anyhow::Result<CertificateAuthority> {
    let (certificate_path, key_path) = (directory.join(CERTIFICATE), directory.join(KEY));
    let key = read_bounded(&key_path, LIMIT)?;
    match (read_bounded(&certificate_path, LIMIT)?, key) {
        (Some(certificate), Some(key)) => Ok(CertificateAuthority::from_pem(&certificate, &key)
            .with_context(|| format!("could not use the CA in {}", directory.display()))
            .map_err(ConfigError::new)?),
        (Some(_), None) => Err(ConfigError::new(anyhow::anyhow!(
            "{} is there and its key {} is not: put the key back, or remove the certificate to make a new CA, which every \
             edge must then join again",
            certificate_path.display(),
            key_path.display()
        ))
        .into()),
        // The key is written first: a key alone means that the first start ended between the two, and that no
        // certificate was ever handed out.
        (None, _) => {
            let ca = CertificateAuthority::create("KubeEdge").context("could not make a CA")?;
            write_durable(&key_path, 0o600, ca.key_pem().as_bytes())
                .with_context(|| format!("could not write {}", key_path.display()))?;
            write_durable(&certificate_path, 0o644, ca.certificate_pem().as_bytes())
                .with_context(|| format!("could not write {}", certificate_path.display()))?;
            tracing::info!(path = %certificate_path.display(), "made a new CA");
            Ok(ca)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_ca_made_on_first_start_is_loaded_on_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path()).unwrap();
        let second = open(dir.path()).unwrap();
        assert_eq!(first.certificate(), second.certificate());
        assert_eq!(fs::metadata(dir.path().join(KEY)).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_start_that_ended_between_key_and_certificate_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).unwrap();
        fs::remove_file(dir.path().join(CERTIFICATE)).unwrap();
        assert!(open(dir.path()).is_ok());
    }

    #[test]
    fn a_certificate_without_its_key_is_the_operators_to_mend() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).unwrap();
        fs::remove_file(dir.path().join(KEY)).unwrap();
        let error = open(dir.path()).err().unwrap();
        assert!(error.to_string().contains("rootCA.key"), "{error}");
        assert!(dir.path().join(CERTIFICATE).exists(), "nothing is overwritten");
    }

    #[test]
    fn a_damaged_key_is_named_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).unwrap();
        fs::write(dir.path().join(KEY), "noise").unwrap();
        assert!(open(dir.path()).is_err());
        assert_eq!(fs::read(dir.path().join(KEY)).unwrap(), b"noise");
    }
}
