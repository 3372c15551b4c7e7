//! A disk that fills up while a run writes to it.

use super::{Artifacts, Sandbox, assert_equal_runs, assert_fails, files_in};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A mounted tmpfs, unmounted when dropped.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// `None` where this user may not mount.
    fn mount(path: PathBuf, size: &str) -> Option<Self> {
        fs::create_dir(&path).expect("the mount point");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&path);
        let mounted = mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        mounted.then_some(SmallDisk { path })
    }

    /// Takes all the space that is left.
    fn fill(&self) {
        let mut filler = File::create(self.filler()).expect("the filler");
        while filler.write_all(&[0; 4096]).is_ok() {}
        while filler.write_all(&[0]).is_ok() {}
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.path).status();
    }
}

fn no_temporary_files(run_dir: &Path) -> bool {
    let folders = [run_dir.to_path_buf(), run_dir.join("checkpoint")];
    folders.iter().all(|folder| files_in(folder).iter().all(|name| !name.ends_with(".tmp")))
}

#[test]
fn leaves_the_last_checkpoint_intact() {
    let sandbox = Sandbox::new();
    let Some(disk) = SmallDisk::mount(sandbox.path("disk"), "2m") else {
        eprintln!("skipped: mounting a small disk is not permitted here");
        return;
    };
    let settings = ["--epochs=12", "--stopping_step=100"];
    let reference = sandbox.reference(&settings);
    let run_dir = disk.path.join("run");
    let mut running = sandbox.start(&run_dir, &settings);
    assert!(running.wait_for_lines(3));
    disk.fill();
    assert_fails(&running.output(), 1, &["cannot write", "No space left"]);
    assert!(no_temporary_files(&run_dir));
    assert!(!run_dir.join("results.json").exists());
    // Without space a resume fails in the same way and does no harm.
    let resume = [&settings[..], &["--resume"]].concat();
    assert_fails(&sandbox.run(&run_dir, &resume), 1, &["cannot write", "No space left"]);
    assert!(no_temporary_files(&run_dir));
    fs::remove_file(disk.filler()).unwrap();
    sandbox.finish(&run_dir, &resume);
    assert_equal_runs(&reference, &Artifacts::of(&run_dir));
}

#[test]
fn too_small_for_the_first_checkpoint() {
    let sandbox = Sandbox::new();
    let Some(disk) = SmallDisk::mount(sandbox.path("disk"), "64k") else {
        eprintln!("skipped: mounting a small disk is not permitted here");
        return;
    };
    let run_dir = disk.path.join("run");
    assert_fails(&sandbox.run(&run_dir, &["--epochs=1"]), 1, &["cannot write"]);
    assert!(no_temporary_files(&run_dir));
}
