//! The bus interfaces: generated messages, typed clients, server traits and error enums.
