//! What is tried, and what the probe is told for it.

use std::path::Path;
use std::str::FromStr as _;

use crate::scene::Scene;

/// One line of the table.
pub(crate) struct Attempt {
    pub(crate) group: &'static str,
    pub(crate) name: String,
    /// What the probe is told in place of this component; `None` where there is nothing to try.
    pub(crate) words: Box<dyn Fn(&Scene, &str) -> Option<Words>>,
    /// Errors that come only after the right was there: they mean "allowed".
    pub(crate) granted: &'static [&'static str],
    /// Whether a process that is held by nothing should succeed; its failure shows what the machine lacks.
    pub(crate) control: Control,
}

/// The probe's arguments. With several sets each is one launch, and the first that succeeds names the outcome.
pub(crate) type Words = Vec<Vec<String>>;

/// What an unconfined process of root gets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    /// It succeeds wherever the kernel has the mechanism.
    Succeeds,
    /// It tells nothing: the outcome is the profile's alone.
    None,
    /// Only a control group holds it.
    Cgroup(&'static str),
}

struct List(Vec<Attempt>);

impl List {
    fn add(
        &mut self,
        group: &'static str,
        name: &str,
        words: impl Fn(&Scene, &str) -> Option<Words> + 'static,
    ) -> &mut Attempt {
        let (name, words) = (name.to_owned(), Box::new(words));
        self.0.push(Attempt { group, name, words, granted: &[], control: Control::Succeeds });
        self.0.last_mut().expect("just added")
    }

    /// A system call by name, with the probe's arguments.
    fn call(
        &mut self,
        group: &'static str,
        name: &str,
        call: &'static str,
        arguments: &'static str,
    ) -> &mut Attempt {
        self.add(group, name, move |_, _| {
            Some(vec![system_call(call, &arguments.split_whitespace().collect::<Vec<_>>())?])
        })
    }
}

impl Attempt {
    fn granted_by(&mut self, errors: &'static [&'static str]) -> &mut Self {
        self.granted = errors;
        self
    }

    fn control(&mut self, control: Control) -> &mut Self {
        self.control = control;
        self
    }
}

/// `None` where this architecture has no such call.
fn system_call(name: &str, arguments: &[&str]) -> Option<Vec<String>> {
    let number = syscalls::Sysno::from_str(name).ok()?.id().to_string();
    let arguments = arguments.iter().map(|argument| (*argument).to_owned());
    Some(["call".to_owned(), number].into_iter().chain(arguments).collect())
}

fn one(words: &[&str]) -> Option<Words> {
    Some(vec![words.iter().map(|word| (*word).to_owned()).collect()])
}

fn on(word: &str, path: &Path) -> Option<Words> {
    one(&[word, &path.to_string_lossy()])
}

/// Everything that is tried on this side.
pub(crate) fn all(scene: &Scene) -> Vec<Attempt> {
    let mut list = List(Vec::new());
    files(&mut list, scene);
    sockets(&mut list);
    network(&mut list);
    processes(&mut list);
    rights(&mut list);
    kernel(&mut list);
    limits(&mut list);
    list.0
}

fn files(list: &mut List, scene: &Scene) {
    const GROUP: &str = "files";
    list.add(GROUP, "read own state", |scene, name| on("read", &scene.secret(name)));
    list.add(GROUP, "write own state", |scene, name| on("make", &scene.state(name).join("made")));
    list.add(GROUP, "write own runtime directory", |scene, name| on("make", &scene.run(name).join("made")));
    list.add(GROUP, "read the configuration", |scene, _| on("read", scene.config()));
    list.add(GROUP, "write the configuration", |scene, _| on("append", scene.config()));
    for owner in scene.names() {
        let (state, run) = (owner.clone(), owner.clone());
        // A component's own is what the lines above are about.
        list.add(GROUP, &format!("read state of {owner}"), move |scene, name| {
            if name == state { None } else { on("read", &scene.secret(&state)) }
        });
        list.add(GROUP, &format!("read runtime files of {owner}"), move |scene, name| {
            if name == run { None } else { on("read", &scene.runtime_file(&run)) }
        });
    }
    let (holder, file) = scene.key();
    let key =
        format!("read the {} ({holder}/{file})", if holder == "keyholder" { "node key" } else { "CA key" });
    list.add(
        GROUP,
        &key,
        move |scene, name| {
            if name == holder { None } else { on("read", &scene.state(holder).join(file)) }
        },
    );
    list.add(GROUP, "see the state directories of others", |scene, name| {
        one(&["beside", &scene.state(name).to_string_lossy()])
    });
    list.add(GROUP, "follow a planted link into another's state", |scene, name| {
        on("read", &scene.planted_link(name))
    });
    list.add(GROUP, "open a planted device file", |scene, name| on("read", &scene.planted_device(name)));
    list.add(GROUP, "read a pod's Secret", |scene, _| on("read", &scene.pod_secret()));
    list.add(GROUP, "read /etc/shadow", |_, _| one(&["read", "/etc/shadow"]));
    list.add(GROUP, "read /etc/passwd", |_, _| one(&["read", "/etc/passwd"]));
    list.add(GROUP, "list /", |_, _| one(&["list", "/"]));
    list.add(GROUP, "list /root", |_, _| one(&["list", "/root"]));
    list.add(GROUP, "list /sys", |_, _| one(&["list", "/sys"]));
    list.add(GROUP, "read /dev/kmsg", |_, _| one(&["read", "/dev/kmsg"]))
        // Open, and the message is longer than what is read.
        .granted_by(&["EINVAL"]);
    list.add(GROUP, "write /etc", |scene, _| on("make", &scene.trace("/etc")));
    list.add(GROUP, "write /usr", |scene, _| on("make", &scene.trace("/usr")));
    list.add(GROUP, "write /", |scene, _| on("make", &scene.trace("/")));
    list.add(GROUP, "write the run directory", |scene, _| on("make", &scene.run("").join("made")));
    list.add(GROUP, "write a kernel setting", |_, _| one(&["append", "/proc/sys/kernel/domainname"]));
    // Outside, the suite looks whether it is there: then the word is "seen-outside".
    list.add(GROUP, "write /tmp", |scene, _| on("make", &scene.trace("/tmp")));
    list.add(GROUP, "write /tmp and be seen outside", |scene, _| on("leave", &scene.trace("/tmp")));
    list.add(GROUP, "write /dev/shm", |scene, _| on("make", &scene.trace("/dev/shm")));
}

fn sockets(list: &mut List) {
    const GROUP: &str = "sockets";
    list.add(GROUP, "connect to every granted link", |scene, name| {
        let granted = scene.granted_links(name);
        (!granted.is_empty()).then(|| granted.iter().map(|path| words("connect", path)).collect())
    })
    .control(Control::Succeeds);
    list.add(GROUP, "connect to any link not granted", |scene, name| {
        Some(scene.other_links(name).iter().map(|path| words("connect", path)).collect())
    });
    list.add(GROUP, "connect to the control socket", |scene, _| on("connect", &scene.control_socket()));
    list.add(GROUP, "write to own notify socket", |scene, name| on("send", &scene.notify_socket(name)));
    list.add(GROUP, "write to another's notify socket", |scene, name| {
        let others = scene.names().into_iter().filter(|other| other != name);
        Some(others.map(|other| words("send", &scene.notify_socket(&other))).collect())
    });
    list.add(GROUP, "connect to another's listener", |scene, name| {
        let others = scene.names().into_iter().filter(|other| other != name);
        let paths: Words =
            others.flat_map(|other| scene.listeners(&other)).map(|path| words("connect", &path)).collect();
        (!paths.is_empty()).then_some(paths)
    });
    list.add(GROUP, "connect to the container runtime", |scene, _| on("connect", &scene.runtime_socket()));
    list.add(GROUP, "connect to an abstract socket of the host", |scene, _| {
        one(&["abstract", &scene.abstract_name()])
    });
}

fn words(word: &str, path: &Path) -> Vec<String> {
    vec![word.to_owned(), path.to_string_lossy().into_owned()]
}

fn network(list: &mut List) {
    const GROUP: &str = "network";
    list.call(GROUP, "open a TCP socket", "socket", "2 1 0");
    list.call(GROUP, "open a TCP socket, IPv6", "socket", "10 1 0");
    list.call(GROUP, "open a UDP socket", "socket", "2 2 0");
    list.call(GROUP, "open a raw socket", "socket", "2 3 1");
    list.call(GROUP, "open a netlink socket", "socket", "16 3 0");
    list.call(GROUP, "open a packet socket", "socket", "17 3 0");
    list.call(GROUP, "open a socket to the hypervisor", "socket", "40 1 0");
    list.call(GROUP, "open a socket of the kernel's ciphers", "socket", "38 5 0");
    list.add(GROUP, "connect by TCP", |scene, _| one(&["tcp", &scene.tcp_address()]));
    list.add(GROUP, "bind a TCP port", |scene, _| one(&["listen", &scene.free_address()]));
    list.add(GROUP, "send a UDP datagram", |scene, _| one(&["udp", &scene.tcp_address()]));
}

fn processes(list: &mut List) {
    const GROUP: &str = "other processes";
    list.add(GROUP, "see them in /proc", |_, _| one(&["others"]));
    list.add(GROUP, "look at the supervisor's root", |scene, _| {
        one(&["list", &format!("/proc/{}/root/", scene.supervisor())])
    });
    for (name, sibling) in [("a sibling", true), ("the supervisor", false)] {
        let pid = move |scene: &Scene, name: &str| {
            if sibling { scene.sibling(name) } else { scene.supervisor() }.to_string()
        };
        // PTRACE_SEIZE stops nobody.
        list.add(GROUP, &format!("trace {name}"), move |scene, own| {
            Some(vec![system_call("ptrace", &["16902", &pid(scene, own), "0", "0"])?])
        });
        // SIGWINCH, which nobody here reacts to.
        list.add(GROUP, &format!("signal {name}"), move |scene, own| {
            Some(vec![system_call("kill", &[&pid(scene, own), "28"])?])
        });
        list.add(GROUP, &format!("signal a thread of {name}"), move |scene, own| {
            Some(vec![system_call("tgkill", &[&pid(scene, own), &pid(scene, own), "28"])?])
        });
        list.add(GROUP, &format!("read memory of {name}"), move |scene, own| {
            Some(vec![system_call("process_vm_readv", &[&pid(scene, own), "v", "1", "r", "1", "0"])?])
        })
        .granted_by(&["EFAULT"]);
        list.add(GROUP, &format!("get a handle of {name}"), move |scene, own| {
            Some(vec![system_call("pidfd_open", &[&pid(scene, own), "0"])?])
        });
    }
    list.add(GROUP, "take a descriptor of the supervisor", |scene, _| {
        one(&["take", &scene.supervisor().to_string()])
    });
    // SIGCHLD alone: a process, no thread.
    list.call(GROUP, "start a process", "clone", "17 0 0 0 0");
    list.call(GROUP, "start a process with clone3", "clone3", "z 0").granted_by(&["EINVAL"]);
    list.add(GROUP, "run /bin/sh", |_, _| one(&["run", "/bin/sh", "-c", "echo allowed"]));
    list.add(GROUP, "run a program from own state", |scene, name| {
        one(&["copy-and-run", &scene.program(name), &scene.state(name).join("copy").to_string_lossy()])
    });
    list.add(GROUP, "run a program from /tmp", |scene, name| {
        one(&["copy-and-run", &scene.program(name), &scene.trace("/tmp").to_string_lossy()])
    });
}

fn rights(list: &mut List) {
    const GROUP: &str = "rights";
    list.add(GROUP, "raise a capability", |_, _| one(&["raise"]));
    // PR_CAP_AMBIENT_RAISE of CAP_NET_ADMIN.
    list.call(GROUP, "raise an ambient capability", "prctl", "47 2 12 0 0").control(Control::None);
    list.call(GROUP, "become root", "setuid", "0");
    list.call(GROUP, "become root's group", "setgid", "0");
    list.call(GROUP, "drop its groups", "setgroups", "0 z");
    for (name, flag) in [
        ("user", "268435456"),
        ("mount", "131072"),
        ("process", "536870912"),
        ("network", "1073741824"),
        ("System V IPC", "134217728"),
        ("host name", "67108864"),
        ("control group", "33554432"),
    ] {
        list.call(GROUP, &format!("make a {name} namespace"), "unshare", flag);
    }
    list.call(GROUP, "enter a namespace", "setns", "-1 0").granted_by(&["EBADF", "EINVAL"]);
    list.call(GROUP, "mount a file system", "mount", "s:none s:/tmp s:nosuchfs 0 0").granted_by(&["ENODEV"]);
    list.call(GROUP, "copy a mount", "open_tree", "-100 s:/ 1");
    list.call(GROUP, "change its root", "chroot", "s:/");
    list.call(GROUP, "swap its root", "pivot_root", "s:/ s:/").granted_by(&["EBUSY", "EINVAL"]);
    list.add(GROUP, "make a device file", |scene, name| {
        let path = format!("s:{}", scene.state(name).join("device").display());
        // /dev/zero's number.
        Some(vec![system_call("mknodat", &["-100", &path, "8576", "261"])?])
    });
    list.add(GROUP, "make a program set-user-id", |scene, name| {
        let path = format!("s:{}", scene.own_file(name).display());
        Some(vec![system_call("fchmodat", &["-100", &path, "2541"])?])
    });
    list.add(GROUP, "make a file with the set-user-id bit", |scene, name| {
        let path = format!("s:{}", scene.state(name).join("set-id").display());
        // O_CREAT | O_WRONLY.
        Some(vec![system_call("openat", &["-100", &path, "65", "2541"])?])
    });
    list.add(GROUP, "make an unnamed file with the set-user-id bit", |scene, name| {
        let path = format!("s:{}", scene.state(name).display());
        let flags = (libc::O_TMPFILE | libc::O_WRONLY).to_string();
        Some(vec![system_call("openat", &["-100", &path, &flags, "2541"])?])
    });
    list.add(GROUP, "give a file away", |scene, name| {
        let path = format!("s:{}", scene.own_file(name).display());
        Some(vec![system_call("fchownat", &["-100", &path, "1", "1", "0"])?])
    });
}

fn kernel(list: &mut List) {
    const GROUP: &str = "kernel";
    // Where the rights are checked before the arguments, these are wrong on purpose: nothing happens to the machine.
    list.call(GROUP, "kexec_load", "kexec_load", "0 0 0 255").granted_by(&["EINVAL"]);
    list.call(GROUP, "reboot", "reboot", "0 0 0 0").granted_by(&["EINVAL"]);
    list.call(GROUP, "init_module", "init_module", "z 8 s:").granted_by(&["ENOEXEC"]);
    list.call(GROUP, "finit_module", "finit_module", "-1 s: 0").granted_by(&["EBADF"]);
    list.call(GROUP, "bpf", "bpf", "0 z 72").granted_by(&["EINVAL"]);
    list.call(GROUP, "perf_event_open", "perf_event_open", "z 0 -1 -1 0").granted_by(&[
        "EINVAL",
        "ENOENT",
        "EOPNOTSUPP",
    ]);
    list.call(GROUP, "io_uring_setup", "io_uring_setup", "1 z");
    list.call(GROUP, "userfaultfd", "userfaultfd", "0");
    list.call(GROUP, "keyctl", "keyctl", "0 -3 0").granted_by(&["ENOKEY"]);
    list.call(GROUP, "add_key", "add_key", "s:user s:probe s:x 1 -2");
    list.call(GROUP, "request_key", "request_key", "s:user s:probe 0 0").granted_by(&["ENOKEY"]);
    list.call(GROUP, "syslog", "syslog", "10 0 0");
    list.call(GROUP, "swapon", "swapon", "s:/nowhere 0").granted_by(&["ENOENT"]);
    list.call(GROUP, "settimeofday", "settimeofday", "0 0");
    list.call(GROUP, "sethostname", "sethostname", "z -1").granted_by(&["EINVAL"]);
    list.call(GROUP, "acct", "acct", "s:/nowhere").granted_by(&["ENOENT"]);
    list.call(GROUP, "open_by_handle_at", "open_by_handle_at", "-1 z 0")
        .granted_by(&["EBADF", "EINVAL", "ESTALE"]);
    list.call(GROUP, "fanotify_init", "fanotify_init", "0 0");
    list.call(GROUP, "personality", "personality", "8");
    list.call(GROUP, "iopl", "iopl", "3");
    list.call(GROUP, "modify_ldt", "modify_ldt", "0 z 16");
    // SCHED_FIFO at priority 1.
    list.call(GROUP, "real-time scheduling", "sched_setscheduler", "0 1 i:1");
    list.call(GROUP, "memory file", "memfd_create", "s:probe 0");
    // PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS.
    list.call(GROUP, "memory both writable and executable", "mmap", "0 4096 7 34 -1 0");
    list.add(GROUP, "memory executable after it was written", |_, _| one(&["write-then-execute"]));
    list.add(GROUP, "a 32-bit system call", |_, _| {
        cfg!(target_arch = "x86_64").then(|| one(&["foreign"]))?
    });
    list.add(GROUP, "a system call of the x32 ABI", |_, _| {
        // getpid, with the bit that marks the ABI.
        cfg!(target_arch = "x86_64").then(|| one(&["call", "1073741863"]))?
    });
}

fn limits(list: &mut List) {
    const GROUP: &str = "limits";
    list.add(GROUP, "dump core", |_, _| one(&["core"])).control(Control::None);
    list.add(GROUP, "inherited descriptors", |_, _| one(&["descriptors"])).control(Control::None);
    list.add(GROUP, "environment", |_, _| one(&["environment"])).control(Control::None);
    list.add(GROUP, "more descriptors than its limit", |scene, name| {
        one(&["files", &(scene.limits(name).nofile + 1).to_string()])
    })
    .control(Control::None);
    list.add(GROUP, "more threads than its limit", |scene, name| {
        one(&["threads", &(scene.limits(name).pids? + 1).to_string()])
    })
    .control(Control::Cgroup("process limit"));
    list.add(GROUP, "more memory than its limit", |scene, name| {
        // Past the largest limit of a manifest this would take the machine's memory to show little.
        const LARGEST: u64 = 256 << 20;
        let limit = scene.limits(name).memory.map(|bytes| bytes.0).filter(|limit| *limit <= LARGEST)?;
        one(&["memory", &(limit + (16 << 20)).to_string()])
    })
    .control(Control::Cgroup("memory limit"));
}
