//! Making a task's first process: everything between the last check and exec.
//!
//! Called once by the keeper. Whatever can fail early is prepared before the fork; what fails in the child comes back
//! through a close-on-exec pipe as a step and an error number, so that "never ran" is known and not guessed.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::Signal;

use crate::containment::{Placement, Tree, pidns};
use crate::process::ProcessRef;
use crate::protocol::{Containment, NotStarted, StartSpec, UserIds};
use crate::sys::{self, Fork};

/// A child that is on its way to exec, or has got there.
#[derive(Debug)]
pub(super) struct Started {
    /// The keeper's child: the task's first process, or the init of its pid namespace.
    pub(super) child: ProcessRef,
    pub(super) tree: Tree,
    /// End of file: executed. Bytes before it: [`failure_from`].
    pub(super) exec_status: File,
    /// The task's output, non-blocking.
    pub(super) output: File,
}

/// Why there is no child.
#[derive(Debug)]
pub(super) struct NoStart {
    pub(super) why: NotStarted,
    pub(super) text: String,
}

impl NoStart {
    pub(super) fn from_io(what: &str, error: &io::Error) -> Self {
        Self {
            why: classify(error),
            text: format!("{what}: {error}"),
        }
    }

    /// "Not found" and "not permitted" are said of the task's program only, not of the keeper's own needs.
    pub(super) fn not_the_program(mut self) -> Self {
        if matches!(self.why, NotStarted::NotFound | NotStarted::Permission) {
            self.why = NotStarted::Other;
        }
        self
    }
}

fn classify(error: &io::Error) -> NotStarted {
    match error.raw_os_error().unwrap_or(0) {
        libc::ENOENT | libc::ENOTDIR => NotStarted::NotFound,
        libc::EACCES | libc::EPERM | libc::ENOEXEC => NotStarted::Permission,
        libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::ENOSPC | libc::EDQUOT => {
            NotStarted::Resources
        }
        _ => NotStarted::Other,
    }
}

/// What the child was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    Namespace = 1,
    Cgroup = 2,
    Streams = 3,
    User = 4,
    Flags = 5,
    Directory = 6,
    Exec = 7,
}

const STEPS: [Step; 7] = [
    Step::Namespace,
    Step::Cgroup,
    Step::Streams,
    Step::User,
    Step::Flags,
    Step::Directory,
    Step::Exec,
];

/// Decodes what came through `exec_status`.
pub(super) fn failure_from(bytes: &[u8]) -> NoStart {
    let (step, number) = bytes.split_first().unwrap_or((&0, &[]));
    let number = number.try_into().map_or(0, i32::from_ne_bytes);
    let error = io::Error::from_raw_os_error(number);
    let Some(step) = STEPS.into_iter().find(|known| *known as u8 == *step) else {
        return NoStart {
            why: NotStarted::Other,
            text: "the start failed in an unknown way".to_owned(),
        };
    };
    let what = match step {
        Step::Namespace => "the pid namespace cannot be set up",
        Step::Cgroup => "the task's cgroup cannot be entered",
        Step::Streams => "the standard streams cannot be set up",
        Step::User => "the task's user cannot be taken on",
        Step::Flags => "the process flags cannot be set",
        Step::Directory => "the working directory cannot be entered",
        Step::Exec => "the program cannot be executed",
    };
    let mut failure = NoStart::from_io(what, &error);
    // "Not found" is said of the program only.
    if step != Step::Exec && failure.why == NotStarted::NotFound {
        failure.why = NotStarted::Other;
    }
    failure
}

/// Program, arguments and environment in the kernel's form.
struct Image {
    argv: Vec<CString>,
    envp: Vec<CString>,
    cwd: CString,
}

impl Image {
    fn of(spec: &StartSpec) -> Result<Self, std::ffi::NulError> {
        let env = spec
            .env
            .iter()
            .map(|(name, value)| CString::new(format!("{name}={value}")));
        Ok(Self {
            argv: spec
                .argv
                .iter()
                .map(|argument| CString::new(argument.as_bytes()))
                .collect::<Result<_, _>>()?,
            envp: env.collect::<Result<_, _>>()?,
            cwd: CString::new(spec.cwd.as_os_str().as_bytes())?,
        })
    }
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

/// What the child needs beside the image.
struct Child<'a> {
    image: &'a Image,
    user: Option<&'a UserIds>,
    umask: u32,
    no_new_privs: bool,
    null: BorrowedFd<'a>,
    output: BorrowedFd<'a>,
    cgroup: Option<&'a File>,
    failure: &'a File,
    /// The parent's id as the child sees it, to notice that it died before PDEATHSIG was set.
    parent: u32,
}

/// How the task will be held together, made before anything is forked.
pub(super) struct Place {
    pub(super) containment: Containment,
    pub(super) leaf: Option<crate::containment::Leaf>,
}

impl Place {
    pub(super) fn make(spec: &StartSpec, placement: &Placement) -> Result<Self, NoStart> {
        let refuse = |text: &str| NoStart {
            why: NotStarted::Other,
            text: text.to_owned(),
        };
        let containment = placement.choose(spec.containment).map_err(refuse)?;
        let leaf = match containment {
            Containment::Cgroup => {
                let made = placement.leaf(&spec.attempt);
                Some(made.map_err(|error| {
                    refuse(&format!("the task's cgroup cannot be made: {error}"))
                })?)
            }
            Containment::PidNamespace | Containment::Subreaper => None,
        };
        Ok(Self { containment, leaf })
    }
}

/// Forks the task's first process. Returns when it is forked, not when it is executed.
pub(super) fn start(spec: &StartSpec, place: Place) -> Result<Started, NoStart> {
    let fail = |error: io::Error| NoStart::from_io("the task cannot be forked", &error);
    let image = Image::of(spec).map_err(|error| NoStart {
        why: NotStarted::Other,
        text: error.to_string(),
    })?;
    let (output, output_end) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| fail(e.into()))?;
    rustix::io::ioctl_fionbio(&output, true).map_err(|e| fail(e.into()))?;
    let (status, status_end) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| fail(e.into()))?;
    rustix::io::ioctl_fionbio(&status, true).map_err(|e| fail(e.into()))?;
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| fail(e.into()))?;
    let door = place
        .leaf
        .as_ref()
        .map(crate::containment::Leaf::door)
        .transpose()
        .map_err(fail)?;
    let failure = File::from(status_end);
    let child = Child {
        image: &image,
        user: spec.user.as_ref(),
        umask: spec.umask,
        no_new_privs: spec.no_new_privs,
        null: null.as_fd(),
        output: output_end.as_fd(),
        cgroup: door.as_ref(),
        failure: &failure,
        parent: std::process::id(),
    };
    let (pid, tree) = match (place.containment, place.leaf) {
        (Containment::PidNamespace, _) => fork_namespace(child).map_err(fail)?,
        (Containment::Cgroup, Some(leaf)) => (fork_plain(child).map_err(fail)?, Tree::Cgroup(leaf)),
        (Containment::Cgroup | Containment::Subreaper, _) => {
            (fork_plain(child).map_err(fail)?, Tree::Subreaper)
        }
    };
    // The child is not waited for yet, so that its entry exists even if it has ended.
    let child = ProcessRef::of(pid).unwrap_or(ProcessRef { pid, start_time: 0 });
    let tree = match tree {
        Tree::PidNamespace { control, .. } => Tree::PidNamespace {
            init: child,
            control,
        },
        same @ (Tree::Cgroup(_) | Tree::Subreaper) => same,
    };
    Ok(Started {
        child,
        tree,
        exec_status: File::from(status),
        output: File::from(output),
    })
}

fn fork_plain(child: Child<'_>) -> io::Result<u32> {
    match sys::fork()? {
        Fork::Child => become_task(&child),
        Fork::Parent(pid) => Ok(pid),
    }
}

fn fork_namespace(mut child: Child<'_>) -> io::Result<(u32, Tree)> {
    let (control, init_end) = pidns::control_pair()?;
    let root = rustix::process::geteuid().is_root();
    let ids = (!root).then(|| {
        (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        )
    });
    match pidns::fork_init()? {
        Fork::Child => {
            drop(control);
            child.parent = 1;
            init(&child, &init_end, ids)
        }
        Fork::Parent(pid) => {
            let init = ProcessRef { pid, start_time: 0 };
            Ok((pid, Tree::PidNamespace { init, control }))
        }
    }
}

fn init(child: &Child<'_>, control: &OwnedFd, ids: Option<(u32, u32)>) -> ! {
    if let Err(error) = pidns::settle(ids) {
        give_up(child.failure, Step::Namespace, &error);
    }
    match sys::fork() {
        Ok(Fork::Child) => become_task(child),
        Ok(Fork::Parent(first)) => pidns::run_init(control, first),
        Err(error) => give_up(child.failure, Step::Namespace, &error),
    }
}

fn give_up(mut failure: &File, step: Step, error: &io::Error) -> ! {
    let mut bytes = vec![step as u8];
    bytes.extend_from_slice(&error.raw_os_error().unwrap_or(0).to_ne_bytes());
    let _ = failure.write_all(&bytes);
    sys::exit_now(127)
}

fn become_task(child: &Child<'_>) -> ! {
    if let Err((step, error)) = prepare(child) {
        give_up(child.failure, step, &error);
    }
    let (argv, envp) = (pointers(&child.image.argv), pointers(&child.image.envp));
    let program: &CStr = child.image.argv.first().map_or(c"", CString::as_c_str);
    give_up(
        child.failure,
        Step::Exec,
        &sys::execve(program, &argv, &envp),
    )
}

/// The order matters: the cgroup while still able to enter it, the user before the flags that a change of user clears,
/// the directory as the task's user.
fn prepare(child: &Child<'_>) -> Result<(), (Step, io::Error)> {
    let at = |step: Step| move |error: rustix::io::Errno| (step, io::Error::from(error));
    rustix::process::setsid().map_err(at(Step::Flags))?;
    if let Some(mut door) = child.cgroup {
        door.write_all(b"0")
            .map_err(|error| (Step::Cgroup, error))?;
    }
    let streams = [(child.null, 0), (child.output, 1), (child.output, 2)];
    for (fd, number) in streams {
        sys::put(fd, number).map_err(|error| (Step::Streams, error))?;
    }
    sys::cloexec_all();
    sys::reset_signals();
    rustix::process::umask(Mode::from_raw_mode(child.umask & 0o777));
    if let Some(user) = child.user {
        sys::become_user(user).map_err(|error| (Step::User, error))?;
    }
    if child.no_new_privs {
        rustix::thread::set_no_new_privs(true).map_err(at(Step::Flags))?;
    }
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(at(Step::Flags))?;
    if std::os::unix::process::parent_id() != child.parent {
        // The keeper died before the line above: nobody would end this task.
        sys::exit_now(127);
    }
    rustix::process::chdir(&child.image.cwd).map_err(at(Step::Directory))
}
