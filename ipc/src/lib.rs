//! Typed calls and streams over Unix sockets: frames, hello, deadlines, credit, back-off.
