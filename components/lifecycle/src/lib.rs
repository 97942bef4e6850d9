//! What every supervised process does first and last: logs, links, readiness, drain, exit code.
