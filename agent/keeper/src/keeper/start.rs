//! Making a task's first process: everything between the last check and exec.
//!
//! Called once per attempt by the keeper. Whatever can fail early is prepared before the child is made; what fails in
//! the child comes back as a step and an error number, so that "never ran" is known and not guessed: through shared
//! memory where the child borrows the keeper's, through a close-on-exec pipe where it is a fork.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::Mode;
use rustix::pipe::PipeFlags;
use rustix::process::Signal;

use crate::calls::Filter;
use crate::containment::{Leaf, Placement, Tree, pidns};
use crate::process::ProcessRef;
use crate::protocol::{Containment, NotStarted, StartSpec, UserIds, Wall};
use crate::secrets::{self, Handed};
use crate::sys::{self, Fork, child};
use crate::wall::{self, Beside, WallError};

use super::Means;

/// A child that is on its way to exec, or has got there.
#[derive(Debug)]
pub(super) struct Started {
    /// The keeper's child: the task's first process, or the init of its pid namespace.
    pub(super) pid: u32,
    pub(super) tree: Tree,
    /// End of file: executed. Bytes before it: [`failure_from`]. `None`: executed already.
    pub(super) exec_status: Option<File>,
    /// The task's output, non-blocking.
    pub(super) output: File,
    /// Where the task writes. As long as the keeper has it too, it hears of a task that ends when that has ended, and
    /// is not woken before because the pipe is closed.
    pub(super) output_end: OwnedFd,
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

    pub(super) fn claim_lost() -> Self {
        Self {
            why: NotStarted::ClaimLost,
            text: "the attempt was claimed by somebody else".to_owned(),
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
    Secrets = 8,
    Wall = 9,
}

const STEPS: [Step; 9] = [
    Step::Namespace,
    Step::Cgroup,
    Step::Streams,
    Step::User,
    Step::Flags,
    Step::Directory,
    Step::Exec,
    Step::Secrets,
    Step::Wall,
];

const WALL: &str = "the wall around the task cannot be put up";

/// Decodes what came through `exec_status`.
pub(super) fn failure_from(bytes: &[u8]) -> NoStart {
    let (step, number) = bytes.split_first().unwrap_or((&0, &[]));
    failure_at(*step, number.try_into().map_or(0, i32::from_ne_bytes))
}

fn failure_at(step: u8, number: i32) -> NoStart {
    let error = io::Error::from_raw_os_error(number);
    let Some(step) = STEPS.into_iter().find(|known| *known as u8 == step) else {
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
        Step::Wall => WALL,
        Step::Secrets => "the secrets' descriptors cannot be handed over",
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
    strings: Vec<CString>,
    arguments: usize,
    cwd: CString,
}

impl Image {
    fn of(spec: &StartSpec) -> Result<Self, std::ffi::NulError> {
        let arguments = spec
            .argv
            .iter()
            .map(|argument| argument.as_bytes().to_vec());
        let env = spec.env.iter().map(|(name, value)| {
            let mut bytes = Vec::with_capacity(name.len() + value.len() + 2);
            bytes.extend_from_slice(name.as_bytes());
            bytes.push(b'=');
            bytes.extend_from_slice(value.as_bytes());
            bytes
        });
        Ok(Self {
            strings: arguments
                .chain(env)
                .map(CString::new)
                .collect::<Result<_, _>>()?,
            arguments: spec.argv.len(),
            cwd: CString::new(spec.cwd.as_os_str().as_bytes())?,
        })
    }

    fn pointers(&self) -> (Pointers, Pointers) {
        let (arguments, env) = self
            .strings
            .split_at_checked(self.arguments)
            .unwrap_or_default();
        (pointers(arguments), pointers(env))
    }

    fn program(&self) -> &CStr {
        self.strings.first().map_or(c"", CString::as_c_str)
    }
}

type Pointers = Vec<*const libc::c_char>;

fn pointers(strings: &[CString]) -> Pointers {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

/// What the child needs beside the image, and where it says what failed.
struct Child<'a> {
    image: &'a Image,
    /// Made before there is a child: one that borrows memory must not ask for any.
    argv: Pointers,
    envp: Pointers,
    user: Option<&'a UserIds>,
    umask: u32,
    no_new_privs: bool,
    wall: Option<&'a Wall>,
    /// What it comes to, once it is made.
    rules: Option<OwnedFd>,
    calls: Option<Filter>,
    cwd: Cwd,
    null: BorrowedFd<'a>,
    output: BorrowedFd<'a>,
    /// Secrets that it gets as descriptors.
    secrets: &'a [OwnedFd],
    /// Where to enter the cgroup; `None` when born inside.
    door: Option<File>,
    /// A fork's way to say what failed; `None` when `failed` is shared.
    failure: Option<File>,
    /// What failed, if anything did.
    failed: Option<(Step, i32)>,
    /// The parent's id as the child sees it, to notice that it died before PDEATHSIG was set.
    parent: u32,
}

impl Child<'_> {
    fn make_rules(&mut self, beside: &mut Beside) -> Result<(), WallError> {
        let Some(wall) = self.wall else {
            return Ok(());
        };
        self.rules = wall::build(wall, beside)?;
        self.calls = Filter::new(wall);
        Ok(())
    }
}

/// The working directory, for who is to enter it.
enum Cwd {
    /// The site names it: entered as the task's user.
    Path,
    /// Made by the keeper.
    Open(OwnedFd),
    /// Entered already.
    Entered,
}

impl Cwd {
    fn enter(&self, path: &CStr) -> rustix::io::Result<()> {
        match self {
            Self::Path => rustix::process::chdir(path),
            Self::Open(dir) => rustix::process::fchdir(dir),
            Self::Entered => Ok(()),
        }
    }
}

/// How the task will be held together, made before anything is started.
pub(super) struct Place {
    pub(super) containment: Containment,
    pub(super) leaf: Option<Leaf>,
    /// The working directory, where the keeper has made it.
    cwd: Option<OwnedFd>,
}

impl Place {
    /// `spare`: an empty leaf of this keeper, if it has one.
    pub(super) fn make(
        spec: &StartSpec,
        placement: &Placement,
        spare: &mut Option<Leaf>,
        keeper: ProcessRef,
        cwd: Option<OwnedFd>,
    ) -> Result<Self, NoStart> {
        let refuse = |text: &str| NoStart {
            why: NotStarted::Other,
            text: text.to_owned(),
        };
        let containment = placement.choose(spec.containment).map_err(refuse)?;
        let leaf = match containment {
            Containment::Cgroup => {
                let made = spare
                    .take()
                    .map_or_else(|| placement.leaf(keeper), Ok)
                    .map_err(|error| {
                        refuse(&format!("the task's cgroup cannot be made: {error}"))
                    })?;
                Some(made)
            }
            Containment::PidNamespace | Containment::Subreaper => None,
        };
        Ok(Self {
            containment,
            leaf,
            cwd,
        })
    }
}

/// Makes the task's first process.
pub(super) fn start(
    spec: &StartSpec,
    mut place: Place,
    means: &Means<'_>,
    handed: &Handed,
    beside: &mut Beside,
) -> Result<Started, NoStart> {
    let fail = |error: io::Error| NoStart::from_io("the task cannot be forked", &error);
    let image = Image::of(spec).map_err(|error| NoStart {
        why: NotStarted::Other,
        text: error.to_string(),
    })?;
    let (output, output_end) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| fail(e.into()))?;
    rustix::io::ioctl_fionbio(&output, true).map_err(|e| fail(e.into()))?;
    let (argv, mut envp) = image.pointers();
    handed.add_to(&mut envp);
    let mut child = Child {
        image: &image,
        argv,
        envp,
        user: spec.user.as_ref(),
        umask: spec.umask,
        // Both parts of a wall ask for it too.
        no_new_privs: spec.no_new_privs || spec.wall.is_some(),
        wall: spec.wall.as_ref(),
        rules: None,
        calls: None,
        cwd: place.cwd.take().map_or(Cwd::Path, Cwd::Open),
        null: means.null.as_fd(),
        output: output_end.as_fd(),
        secrets: handed.fds(),
        door: None,
        failure: None,
        failed: None,
        parent: means.own.pid,
    };
    if place.containment != Containment::PidNamespace {
        let made = child.make_rules(beside);
        made.map_err(|error| NoStart::from_io(WALL, &io::Error::other(error)))?;
    }
    // A keeper that borrows its memory to a child stands still until that has executed its program. Where the end of
    // a task must come on time whatever disk the program lies on, the child is a fork.
    let borrows = child::KNOWN && spec.stop_after_ms.is_none();
    let made = if place.containment != Containment::PidNamespace && borrows {
        match borrow(child, place, means)? {
            Borrowed::Started(made) => made,
            Borrowed::Not(both) => fork(both.0, both.1)?,
        }
    } else {
        fork(child, place)?
    };
    Ok(Started {
        pid: made.pid,
        tree: made.tree,
        exec_status: made.exec_status,
        output: File::from(output),
        output_end,
    })
}

/// A child, and what is known of its exec: see [`Started`].
struct Made {
    pid: u32,
    tree: Tree,
    exec_status: Option<File>,
}

/// What became of a try to make a child without a fork.
enum Borrowed<'a> {
    Started(Made),
    /// The kernel does not do this here.
    Not(Box<(Child<'a>, Place)>),
}

fn borrow<'a>(
    mut child: Child<'a>,
    place: Place,
    means: &Means<'_>,
) -> Result<Borrowed<'a>, NoStart> {
    let cgroup = place.leaf.as_ref().map(Leaf::as_fd);
    let made = child::run(&means.stack, cgroup, become_task_in, &raw mut child);
    let pid = match made {
        Ok(pid) => pid,
        Err(error) if is_forbidden(&error) => return Ok(Borrowed::Not(Box::new((child, place)))),
        Err(error) => return Err(NoStart::from_io("the task cannot be started", &error)),
    };
    if let Some((step, number)) = child.failed {
        // It ended without having executed anything; nothing else of it is there.
        sys::wait_for(pid);
        return Err(failure_at(step as u8, number));
    }
    let tree = place.leaf.map_or(Tree::Subreaper, Tree::Cgroup);
    Ok(Borrowed::Started(Made {
        pid,
        tree,
        exec_status: None,
    }))
}

/// What kernels and the profiles of containers say to a call that they do not want.
fn is_forbidden(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOSYS | libc::EPERM | libc::EINVAL | libc::E2BIG | libc::EOPNOTSUPP)
    )
}

/// Forks the task's first process. Returns when it is forked, not when it is executed.
fn fork(mut child: Child<'_>, place: Place) -> Result<Made, NoStart> {
    let fail = |error: io::Error| NoStart::from_io("the task cannot be forked", &error);
    let (status, status_end) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| fail(e.into()))?;
    rustix::io::ioctl_fionbio(&status, true).map_err(|e| fail(e.into()))?;
    let status_end = secrets::out_of_the_way(status_end).map_err(fail)?;
    child.failure = Some(File::from(status_end));
    let door = place.leaf.as_ref().map(Leaf::door).transpose();
    child.door = door.map_err(fail)?;
    let (pid, tree) = match (place.containment, place.leaf) {
        (Containment::PidNamespace, _) => fork_namespace(child).map_err(fail)?,
        (Containment::Cgroup, Some(leaf)) => (fork_plain(child).map_err(fail)?, Tree::Cgroup(leaf)),
        (Containment::Cgroup | Containment::Subreaper, _) => {
            (fork_plain(child).map_err(fail)?, Tree::Subreaper)
        }
    };
    Ok(Made {
        pid,
        tree,
        exec_status: Some(File::from(status)),
    })
}

fn fork_plain(mut child: Child<'_>) -> io::Result<u32> {
    match sys::fork()? {
        Fork::Child => become_task(&mut child),
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
            init(child, &init_end, ids)
        }
        Fork::Parent(pid) => {
            // It is not waited for yet, so that its entry exists even if it has ended.
            let init = ProcessRef::of(pid).unwrap_or(ProcessRef { pid, start_time: 0 });
            Ok((pid, Tree::PidNamespace { init, control }))
        }
    }
}

fn init(mut child: Child<'_>, control: &OwnedFd, ids: Option<(u32, u32)>) -> ! {
    // Before there are other mounts, which what was opened earlier does not belong to.
    if matches!(child.cwd, Cwd::Open(_)) {
        if let Err(errno) = child.cwd.enter(c"") {
            give_up(&mut child, Step::Directory, &errno.into());
        }
        child.cwd = Cwd::Entered;
    }
    if let Err(error) = pidns::settle(ids) {
        give_up(&mut child, Step::Namespace, &error);
    }
    // Here, because the namespace has another `/proc`. Init itself is outside of the wall.
    if let Err(error) = child.make_rules(&mut Beside::default()) {
        give_up(&mut child, Step::Wall, &io::Error::other(error));
    }
    match sys::fork() {
        Ok(Fork::Child) => become_task(&mut child),
        Ok(Fork::Parent(first)) => pidns::run_init(control, first),
        Err(error) => give_up(&mut child, Step::Namespace, &error),
    }
}

fn give_up(child: &mut Child<'_>, step: Step, error: &io::Error) -> ! {
    let number = error.raw_os_error().unwrap_or(0);
    child.failed = Some((step, number));
    if let Some(mut failure) = child.failure.as_ref() {
        let [a, b, c, d] = number.to_ne_bytes();
        let _ = failure.write_all(&[step as u8, a, b, c, d]);
    }
    sys::exit_now(127)
}

/// The same for a child that borrows its parent's memory.
#[expect(
    unsafe_code,
    reason = "the way into a new process hands over a plain pointer"
)]
extern "C" fn become_task_in(child: *mut Child<'_>) -> ! {
    // SAFETY: `borrow` gives a pointer to its own value and stands still until this process has left.
    become_task(unsafe { &mut *child })
}

/// Asks for no memory: it may be the keeper's.
fn become_task(child: &mut Child<'_>) -> ! {
    if let Err((step, error)) = prepare(child) {
        give_up(child, step, &error);
    }
    // Last: nothing but the way to say what failed is needed any more.
    if let Err(error) = secrets::give(child.secrets) {
        give_up(child, Step::Secrets, &error);
    }
    let error = sys::execve(child.image.program(), &child.argv, &child.envp);
    give_up(child, Step::Exec, &error)
}

/// The order matters: the cgroup while still able to enter it, the user before the flags that a change of user clears,
/// the directory as the task's user.
fn prepare(child: &Child<'_>) -> Result<(), (Step, io::Error)> {
    let at = |step: Step| move |error: rustix::io::Errno| (step, io::Error::from(error));
    rustix::process::setsid().map_err(at(Step::Flags))?;
    if let Some(mut door) = child.door.as_ref() {
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
    let entered = child.cwd.enter(&child.image.cwd);
    entered.map_err(at(Step::Directory))?;
    let at_wall = |error: io::Error| (Step::Wall, error);
    if let Some(rules) = &child.rules {
        sys::restrict_self(rules.as_fd()).map_err(at_wall)?;
    }
    child
        .calls
        .as_ref()
        .map_or(Ok(()), |calls| calls.enter().map_err(at_wall))
}
