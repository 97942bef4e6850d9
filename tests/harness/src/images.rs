//! The two images the tests use, built here because no registry can be reached: busybox from Debian's static one, and
//! a pause image from a few lines of C. One OCI layout in one tar file, as `ctr images import` takes it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::{Run, machine, run};

/// The image pods run: Debian's busybox with a link for each applet.
pub const BUSYBOX: &str = "docker.io/library/busybox:1.35";
/// What containerd is told to start as each sandbox's first process.
pub(crate) const PAUSE: &str = "localhost/apiary/pause:1";

/// Ends on SIGTERM and SIGINT; as process 1 of a shared process namespace it lets the kernel reap its children.
const PAUSE_SOURCE: &str = r"
#include <signal.h>
#include <unistd.h>

static void leave(int number) { (void)number; _exit(0); }

int main(void) {
    struct sigaction end = {.sa_handler = leave}, child = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};
    sigaction(SIGTERM, &end, 0);
    sigaction(SIGINT, &end, 0);
    sigaction(SIGCHLD, &child, 0);
    for (;;) pause();
}
";

/// Builds both images below `work` and returns the tar file.
pub(crate) fn build(work: &Path) -> Result<PathBuf> {
    let layout = work.join("layout");
    let blobs = layout.join("blobs/sha256");
    make_folder(&blobs)?;
    let busybox = image(&blobs, BUSYBOX, &busybox_root(work)?, &["sh"])?;
    let pause = image(&blobs, PAUSE, &pause_root(work)?, &["/pause"])?;
    write(&layout.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string().as_bytes())?;
    let index = json!({"schemaVersion": 2, "manifests": [busybox, pause]});
    write(&layout.join("index.json"), index.to_string().as_bytes())?;
    let tar = work.join("images.tar");
    pack(&layout, &tar)?;
    Ok(tar)
}

fn busybox_root(work: &Path) -> Result<PathBuf> {
    let Some(busybox) = machine::find_program("busybox") else {
        bail!("`busybox` is not installed (Debian package busybox-static)");
    };
    let root = work.join("busybox");
    for folder in ["bin", "etc", "root", "home", "var/www", "usr/bin"] {
        make_folder(&root.join(folder))?;
    }
    make_folder(&root.join("tmp"))?;
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))
        .context("could not open up /tmp")?;
    fs::copy(&busybox, root.join("bin/busybox"))
        .with_context(|| format!("could not copy {}", busybox.display()))?;
    for applet in Run::new(&busybox).arg("--list").output()?.lines().filter(|name| *name != "busybox") {
        let link = root.join("bin").join(applet);
        symlink("busybox", &link).with_context(|| format!("could not link {}", link.display()))?;
    }
    symlink("../../bin/env", root.join("usr/bin/env")).context("could not link env")?;
    write(
        &root.join("etc/passwd"),
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
    )?;
    write(&root.join("etc/group"), b"root:x:0:\nnogroup:x:65534:\n")?;
    Ok(root)
}

fn pause_root(work: &Path) -> Result<PathBuf> {
    let source = work.join("pause.c");
    write(&source, PAUSE_SOURCE.as_bytes())?;
    let root = work.join("pause");
    make_folder(&root)?;
    // The linker is there: Rust needs it too.
    Run::new(machine::program("cc")?)
        .args(["-static", "-Os", "-s", "-o"])
        .args([&root.join("pause"), &source])
        .output()
        .context("could not compile the pause program")?;
    Ok(root)
}

/// Packs `root` as the one layer of an image and returns the image's entry for the index.
fn image(blobs: &Path, name: &str, root: &Path, command: &[&str]) -> Result<Value> {
    let layer = root.with_extension("tar");
    pack(root, &layer)?;
    let layer = add_blob(blobs, &layer, "application/vnd.oci.image.layer.v1.tar")?;
    let config = json!({
        "architecture": architecture()?,
        "os": "linux",
        "config": {"Cmd": command, "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let config = add_document(blobs, root, "config", &config, "application/vnd.oci.image.config.v1+json")?;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer]});
    let mut entry = add_document(blobs, root, "manifest", &manifest, media_type)?;
    entry["annotations"] = json!({"io.containerd.image.name": name});
    Ok(entry)
}

fn add_document(
    blobs: &Path,
    root: &Path,
    extension: &str,
    document: &Value,
    media_type: &str,
) -> Result<Value> {
    let path = root.with_extension(extension);
    write(&path, document.to_string().as_bytes())?;
    add_blob(blobs, &path, media_type)
}

/// Moves a file among the blobs, under the name of its content, and returns its descriptor.
fn add_blob(blobs: &Path, path: &Path, media_type: &str) -> Result<Value> {
    let sum = run("sha256sum", [path])?;
    let digest = sum.split(' ').next().with_context(|| format!("no digest of {}", path.display()))?;
    let size = fs::metadata(path).with_context(|| format!("could not look at {}", path.display()))?.len();
    fs::rename(path, blobs.join(digest)).with_context(|| format!("could not move {}", path.display()))?;
    Ok(json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size}))
}

/// The same bytes for the same tree, so that an image keeps its id from run to run.
fn pack(folder: &Path, tar: &Path) -> Result<()> {
    Run::new("tar")
        .args([
            "--create",
            "--sort=name",
            "--mtime=@0",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "--file",
        ])
        .arg(tar)
        .arg("--directory")
        .arg(folder)
        .arg(".")
        .output()?;
    Ok(())
}

/// This machine's architecture in Go's words, which image formats use.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        "arm" => Ok("arm"),
        "riscv64" => Ok("riscv64"),
        other => bail!("no image architecture name known for {other}"),
    }
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("could not make {}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("could not write {}", path.display()))
}
