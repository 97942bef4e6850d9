//! A process that is killed while it writes, round after round.

use super::*;

const ROUNDS: u32 = 500;

/// Stores that are written and killed beside each other: the time goes into starting processes.
const STORES: u32 = 4;

/// Rounds after which a store is begun anew, so that kills meet its making too.
const ROUNDS_OF_A_FILE: u32 = 25;

#[test]
fn what_was_acknowledged_survives_kill_9_at_any_point() {
    let stores: Vec<_> = (0..STORES).map(|_| thread::spawn(|| rounds(ROUNDS / STORES))).collect();
    let mut lost = Vec::new();
    let mut acknowledged = 0;
    for store in stores {
        let (states, complaints) = store.join().unwrap();
        acknowledged += states;
        lost.extend(complaints);
    }
    assert!(acknowledged > u64::from(ROUNDS), "only {acknowledged} states were acknowledged");
    println!("{ROUNDS} kills, {acknowledged} states acknowledged");
    conclude("store.powercut.lost", ROUNDS, &lost);
}

/// Returns how many states were acknowledged, and what was lost of them.
fn rounds(count: u32) -> (u64, Vec<String>) {
    let mut states = 0;
    let mut complaints = Vec::new();
    let mut dir = quick_dir();
    let mut acknowledged = Acknowledged::new();
    for round in 0..count {
        if round % ROUNDS_OF_A_FILE == 0 {
            dir = quick_dir();
            acknowledged.clear();
        }
        let path = dir.path().join("state.db");
        states += write_until_killed(&path, &End::random(), &mut acknowledged);
        let lost = lost(&path, &acknowledged);
        complaints.extend(lost.into_iter().map(|lost| format!("round {round}: {lost}")));
    }
    (states, complaints)
}
