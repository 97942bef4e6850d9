use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::{digest, hmac};
use serde::{Deserialize, Serialize};

use crate::time::unix_seconds;

/// `{"alg":"HS256","typ":"JWT"}`, the only header KubeEdge writes.
const HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";

/// 2 KiB: a token is 64 + about 100 bytes; anything near the bound is not one.
const MAX_TOKEN: usize = 2048;

/// SHA-256 of the CA's DER, the first part of a join token.
pub fn ca_hash(ca: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, ca).as_ref());
    hash
}

/// A join token as an operator hands it to the edge: `hex(sha256(CA DER)) "." JWT`.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    ca_hash: [u8; 32],
    jwt: String,
}

/// Why a token was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// Not `hash.header.claims.signature`, or a part does not decode.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// Signed with another CA's key, or changed on the way.
    #[error("the token was not made by this CA")]
    Signature,
    /// Past its end.
    #[error("the token expired {ago} s ago")]
    Expired {
        /// Seconds since its end.
        ago: u64,
    },
}

#[derive(Serialize, Deserialize)]
struct Claims {
    exp: u64,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
}

impl JoinToken {
    /// Splits a token into the CA's hash and the JWT. The JWT is checked by the cloud only.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > MAX_TOKEN {
            return Err(TokenError::Malformed("longer than 2048 bytes"));
        }
        let (hash, jwt) = text.split_once('.').ok_or(TokenError::Malformed("no '.' in it"))?;
        if jwt.split('.').count() != 3 {
            return Err(TokenError::Malformed("not four parts joined by '.'"));
        }
        Ok(Self {
            ca_hash: decode_hex(hash).ok_or(TokenError::Malformed("its first part is not 64 hex digits"))?,
            jwt: jwt.to_owned(),
        })
    }

    /// Whether this is the CA the token was made for. Both sides are public, so the comparison need not take constant time.
    pub fn matches(&self, ca: &[u8]) -> bool {
        self.ca_hash == ca_hash(ca)
    }

    /// The part that goes into `Authorization: Bearer`.
    pub fn jwt(&self) -> &str {
        &self.jwt
    }

    /// The CA hash in the token, lower-case hex: what an operator can compare.
    pub fn ca_hash_hex(&self) -> String {
        encode_hex(&self.ca_hash)
    }
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JoinToken({}, jwt hidden)", self.ca_hash_hex())
    }
}

/// The whole token, `ttl` long. `key` is the DER of the CA's private key, as KubeEdge keys it.
pub(crate) fn mint(ca: &[u8], key: &[u8], ttl: Duration, now: SystemTime) -> String {
    let claims = serde_json::json!({ "exp": unix_seconds(now).saturating_add(ttl.as_secs()) }).to_string();
    let signed = format!("{HEADER}.{}", URL_SAFE_NO_PAD.encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), signed.as_bytes());
    format!("{}.{signed}.{}", encode_hex(&ca_hash(ca)), URL_SAFE_NO_PAD.encode(tag))
}

/// Checks the JWT part. One algorithm only: what the header says is compared, never obeyed.
pub(crate) fn verify(jwt: &str, key: &[u8], now: SystemTime) -> Result<(), TokenError> {
    if jwt.len() > MAX_TOKEN {
        return Err(TokenError::Malformed("longer than 2048 bytes"));
    }
    let (signed, signature) =
        jwt.rsplit_once('.').ok_or(TokenError::Malformed("not three parts joined by '.'"))?;
    let (header, claims) =
        signed.split_once('.').ok_or(TokenError::Malformed("not three parts joined by '.'"))?;
    let signature = URL_SAFE_NO_PAD
        .decode(signature)
        .map_err(|_| TokenError::Malformed("its signature is not base64"))?;
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key), signed.as_bytes(), &signature)
        .map_err(|_| TokenError::Signature)?;
    let header: Header =
        decode_json(header).ok_or(TokenError::Malformed("its header is not JSON with an alg"))?;
    if header.alg != "HS256" {
        return Err(TokenError::Malformed("its alg is not HS256"));
    }
    let claims: Claims = decode_json(claims).ok_or(TokenError::Malformed("its claims have no exp"))?;
    let now = unix_seconds(now);
    if now >= claims.exp {
        return Err(TokenError::Expired { ago: now - claims.exp });
    }
    Ok(())
}

fn decode_json<T: for<'de> Deserialize<'de>>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

fn encode_hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

fn decode_hex(text: &str) -> Option<[u8; 32]> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits.filter(|d| d.len() == 64)?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &[u8] = b"a CA's DER";
    const KEY: &[u8] = b"its key's DER";
    const DAY: Duration = Duration::from_hours(24);

    fn minted() -> JoinToken {
        JoinToken::parse(&mint(CA, KEY, DAY, SystemTime::now())).unwrap()
    }

    #[test]
    fn a_minted_token_names_its_ca_and_verifies() {
        let token = minted();
        assert!(token.matches(CA));
        assert!(!token.matches(b"another CA"));
        assert_eq!(verify(token.jwt(), KEY, SystemTime::now()), Ok(()));
    }

    #[test]
    fn an_expired_token_says_so() {
        let later = SystemTime::now() + DAY + Duration::from_mins(1);
        assert!(matches!(verify(minted().jwt(), KEY, later), Err(TokenError::Expired { ago: 60..=61 })));
    }

    #[test]
    fn a_token_of_another_key_or_with_other_claims_is_refused() {
        let token = minted();
        assert_eq!(verify(token.jwt(), b"other key", SystemTime::now()), Err(TokenError::Signature));
        let parts: Vec<&str> = token.jwt().split('.').collect();
        let later = URL_SAFE_NO_PAD.encode(r#"{"exp":99999999999}"#);
        let forged = format!("{}.{later}.{}", parts[0], parts[2]);
        assert_eq!(verify(&forged, KEY, SystemTime::now()), Err(TokenError::Signature));
    }

    #[test]
    fn a_signed_token_with_another_algorithm_or_without_end_is_refused() {
        let sign = |header: &str, claims: &str| {
            let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY), signed.as_bytes());
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
        };
        let none = sign(r#"{"alg":"none"}"#, r#"{"exp":99999999999}"#);
        assert_eq!(verify(&none, KEY, SystemTime::now()), Err(TokenError::Malformed("its alg is not HS256")));
        let endless = sign(r#"{"alg":"HS256"}"#, "{}");
        assert_eq!(
            verify(&endless, KEY, SystemTime::now()),
            Err(TokenError::Malformed("its claims have no exp"))
        );
    }

    #[test]
    fn what_is_no_token_is_refused_before_any_use() {
        for text in
            ["", "abc", "abc.d.e.f", "a.b.c.d.e", &format!("{}.a.b.c", "é".repeat(32)), &"x".repeat(5000)]
        {
            assert!(matches!(JoinToken::parse(text), Err(TokenError::Malformed(_))), "{text}");
        }
        for jwt in ["", "a", "a.b", "..", "a.b.!"] {
            assert!(verify(jwt, KEY, SystemTime::now()).is_err(), "{jwt}");
        }
    }

    #[test]
    fn the_form_is_kubeedges_to_the_byte() {
        let token = mint(CA, KEY, DAY, std::time::UNIX_EPOCH);
        let parts: Vec<&str> = token.split('.').collect();
        assert_eq!(parts.len(), 4);
        assert_eq!(parts[0].len(), 64);
        assert_eq!(URL_SAFE_NO_PAD.decode(parts[1]).unwrap(), br#"{"alg":"HS256","typ":"JWT"}"#);
        assert_eq!(URL_SAFE_NO_PAD.decode(parts[2]).unwrap(), br#"{"exp":86400}"#);
    }
}
