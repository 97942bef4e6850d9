//! What launches leave behind in the launching process: nothing. Alone in its program, since it counts descriptors.

mod probed;

use launch::{Support, launch};
use probed::{finish, is_root, nobody, place, private, shell};

#[test]
fn launches_leave_no_descriptor_open() {
    let open = || std::fs::read_dir("/proc/self/fd").expect("descriptors").count();
    let place = place();
    let mut plans = vec![shell("true"), shell("true"), shell("true")];
    plans[1].exec = "/nonexistent".into();
    plans[2].env.push(("NUL", "\0".into()));
    if is_root() {
        for staging in ["", "none"] {
            let mut plan = shell("true");
            private(&mut plan, &place.path().join(staging), []);
            plan.identity = Some(nobody());
            plans.push(plan);
        }
    }
    let before = open();
    for plan in plans.iter().cycle().take(50) {
        if let Ok(child) = launch(plan) {
            finish(child);
        }
        Support::probe().expect("probe");
    }
    assert_eq!(open(), before);
}
