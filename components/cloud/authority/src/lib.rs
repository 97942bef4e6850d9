//! The CA key: signs certificates, mints join tokens.
