//! What the process gives up before it serves, so that whoever takes it over has less: it starts no program, looks into no other process, and
//! writes nowhere but where its journal, the keys that it seals with and the policies that it fetches are.
//!
//! A second line of defence: what the kernel does not have is told in the log and does not keep the gateway from serving.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, AccessFs, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus,
    path_beneath_rules,
};
use rustix::process::geteuid;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

use crate::config::Config;

/// Calls that a gateway never makes and that are worth much to an attacker: programs, other processes' memory, the kernel, namespaces.
const REFUSED: [libc::c_long; 29] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    // By these a file or a call could go past what is checked.
    libc::SYS_open_by_handle_at,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_register,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
];

/// Why a restriction is not in force.
#[derive(Debug, thiserror::Error)]
enum ConfineError {
    #[error("seccomp filters for {0} are not known")]
    Architecture(&'static str),
    #[error("the filter cannot be made")]
    Filter(#[from] seccompiler::BackendError),
    #[error("the kernel refused the filter")]
    Seccomp(#[from] seccompiler::Error),
    #[error("the kernel refused the rules")]
    Landlock(#[from] RulesetError),
    #[error("this kernel has no landlock (it came with Linux 5.13 and must be switched on)")]
    NoLandlock,
    #[error("the module of a PKCS#11 key root may write where it likes")]
    Module,
}

/// Confines this thread and all that it starts, so it must come before the runtime. Tells in the log what is in force and what is not.
pub(super) fn confine(config: &Config) {
    if geteuid().is_root() {
        tracing::warn!("running as root: give the gateway a user of its own");
    }
    match refuse_calls() {
        Ok(()) => tracing::info!(refused = REFUSED.len(), "seccomp: no program can be started from here"),
        Err(error) => tracing::warn!(error = chain(&error), "NOT CONFINED by seccomp"),
    }
    match write_only_below(&writable(config), has_module(config)) {
        Ok(()) => tracing::info!("landlock: only the journal, keys and fetched policies can be written"),
        Err(error) => tracing::warn!(error = chain(&error), "NOT CONFINED by landlock"),
    }
}

fn refuse_calls() -> Result<(), ConfineError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)
        .map_err(|_| ConfineError::Architecture(std::env::consts::ARCH))?;
    let rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let denied = u32::try_from(libc::EPERM).unwrap_or(1);
    let filter: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(denied), arch)?.try_into()?;
    Ok(apply_filter(&filter)?)
}

fn write_only_below(folders: &[PathBuf], has_module: bool) -> Result<(), ConfineError> {
    if has_module {
        return Err(ConfineError::Module);
    }
    // Unknown rights of newer kernels are left out by the library, and those of older kernels it drops.
    let write = AccessFs::from_write(ABI::V5);
    let status = Ruleset::default()
        .handle_access(write)?
        .create()?
        .add_rules(path_beneath_rules(folders, write))?
        .restrict_self()?;
    if status.ruleset == RulesetStatus::NotEnforced { Err(ConfineError::NoLandlock) } else { Ok(()) }
}

/// The folders that are written: the journal's, that of the keys that payloads are sealed with (it keeps count of their uses) and that of
/// fetched policies; and what programs expect to be able to write. Those that are missing are made here, for they cannot be later.
fn writable(config: &Config) -> Vec<PathBuf> {
    let file = &config.file;
    let keys = file.keys.as_ref().map(|keys| &keys.directory);
    let folders = [Some(&file.audit.directory), keys, file.policy.state.as_ref()];
    // Whoever needs one that cannot be made says why.
    let made = folders.into_iter().flatten().filter(|folder| make(folder).is_ok());
    made.map(PathBuf::as_path).chain([Path::new("/dev/null")]).map(Path::to_owned).collect()
}

fn make(folder: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn has_module(config: &Config) -> bool {
    config.file.keys.iter().flat_map(|keys| keys.roots.values()).any(|root| root.pkcs11.is_some())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_program_starts_from_a_confined_thread() {
        std::thread::spawn(|| {
            refuse_calls().unwrap();
            let refused = std::process::Command::new("true").status().unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
            // What a gateway does goes on.
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("a"), "b").unwrap();
            std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        })
        .join()
        .unwrap();
        assert!(
            std::process::Command::new("true").status().unwrap().success(),
            "other threads are as before"
        );
    }

    #[test]
    fn nothing_is_written_outside_or_it_is_told() {
        std::thread::spawn(|| {
            let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let outcome = write_only_below(&[inside.path().to_owned()], false);
            std::fs::write(inside.path().join("a"), "b").unwrap();
            let write = std::fs::write(outside.path().join("a"), "b");
            match outcome {
                Ok(()) => assert!(write.is_err()),
                Err(ConfineError::NoLandlock) => assert!(write.is_ok()),
                Err(error) => panic!("{error}"),
            }
            assert!(std::fs::read_dir("/").is_ok());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_module_of_others_is_not_confined_in_silence() {
        assert!(matches!(write_only_below(&[], true), Err(ConfineError::Module)));
    }
}
