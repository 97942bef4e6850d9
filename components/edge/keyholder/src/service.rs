//! The key on the bus.

use ipc::{Fail, Peer};
use proto::keyholder::{Keyholder, KeyholderError, PublicKeyReply, PublicKeyRequest, SignReply, SignRequest};

use crate::key::NodeKey;

/// Larger than anything TLS or a certificate request has signed: a few hundred bytes.
const MAX_MESSAGE: usize = 16 * 1024;

/// Signs with one key.
#[derive(Debug)]
pub(crate) struct Signer {
    key: NodeKey,
}

impl Signer {
    pub(crate) fn new(key: NodeKey) -> Self {
        Self { key }
    }
}

impl Keyholder for Signer {
    async fn public_key(
        &self,
        _peer: &Peer,
        _request: PublicKeyRequest,
    ) -> Result<PublicKeyReply, Fail<KeyholderError>> {
        Ok(PublicKeyReply { point: self.key.public_point().to_vec().into() })
    }

    async fn sign(&self, peer: &Peer, request: SignRequest) -> Result<SignReply, Fail<KeyholderError>> {
        let size = request.message.len();
        if size == 0 || size > MAX_MESSAGE {
            let message = format!("message of {size} bytes: between 1 and {MAX_MESSAGE} are signed");
            return Err(Fail::new(KeyholderError::Invalid, message));
        }
        let signature = self
            .key
            .sign(&request.message)
            .map_err(|error| Fail::new(KeyholderError::Unspecified, error.to_string()))?;
        tracing::debug!(peer = peer.component, size, "signed");
        Ok(SignReply { signature: signature.into() })
    }
}

#[cfg(test)]
mod tests {
    use ipc::{Admission, CallError, Channel, Identity, Server};
    use proto::keyholder::{KeyholderClient, KeyholderServer};
    use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
    use tempfile::TempDir;

    use super::*;

    /// A keyholder behind a real socket.
    struct Running {
        client: KeyholderClient,
        _server: Server<KeyholderServer<Signer>>,
        _dir: TempDir,
    }

    fn start() -> Running {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let signer = Signer::new(NodeKey::load_or_create(dir.path()).unwrap());
        let server = Server::new(Identity::new("keyholder", 1), KeyholderServer::new(signer));
        server.serve(ipc::bind(&socket, 0o600).unwrap(), Admission::AnyUser).unwrap();
        let client = KeyholderClient::new(Channel::new(socket, Identity::new("edgehub", 1)));
        Running { client, _server: server, _dir: dir }
    }

    #[tokio::test]
    async fn signature_verifies_with_the_public_key() {
        let running = start();
        let point = running.client.public_key(PublicKeyRequest {}).await.unwrap().point;
        let request = SignRequest { message: "message".into() };
        let signature = running.client.sign(request).await.unwrap().signature;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(b"message", &signature).unwrap();
    }

    #[tokio::test]
    async fn empty_message_is_invalid() {
        let running = start();
        let error = running.client.sign(SignRequest::default()).await.unwrap_err();
        assert_eq!(error.code(), Some(KeyholderError::Invalid));
    }

    #[tokio::test]
    async fn message_above_the_bound_is_refused() {
        let running = start();
        let request = SignRequest { message: vec![0; MAX_MESSAGE + 1].into() };
        let error = running.client.sign(request).await.unwrap_err();
        assert!(matches!(error, CallError::Refused(_)), "{error:?}");
    }
}
