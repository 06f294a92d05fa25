//! `tidegate seal` and `tidegate open`: files and pipes in the same format as on the wire. Memory is constant.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal as _, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::BytesMut;
use clap::Args;

use super::{Answer, keys};
use crate::model::{RecipientName, TenantName};
use crate::protect::keys::{Direction, KeyError, Scope};
use crate::protect::seal::{
    Bounds, EncryptionContext, FrameLength, MessageId, NewMessage, OpenError, Opener, RewrapError, Sealer,
    UnverifiedHeader, rewrap as rewrap_header,
};

/// How much is read at once, in bytes.
const PIECE: usize = 64 * 1024;
/// How often progress is shown.
const TICK: Duration = Duration::from_millis(200);

/// Seal a file or a pipe for a recipient
///
/// The result opens with `tidegate open`, or with any AWS Encryption SDK client
/// that has the branch key. A file is written aside and renamed when it is whole.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Example:\n  tidegate seal --config tidegate.toml --tenant acme --recipient lake report.csv -o report.sealed"
)]
pub(crate) struct SealArgs {
    #[command(flatten)]
    common: Common,
    /// Plaintext bytes of a frame
    #[arg(long, value_name = "BYTES", default_value_t = FrameLength::BODY.get())]
    frame: u32,
}

/// Open what was sealed
///
/// Nothing is written under the name of the result before the whole message has
/// opened. To a pipe, frames go out as they open: a failure says after which one.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Example:\n  tidegate open --config tidegate.toml --tenant acme --recipient lake report.sealed -o report.csv"
)]
pub(crate) struct OpenArgs {
    #[command(flatten)]
    common: Common,
}

/// Wrap a sealed file's data key anew, under the newest branch keys
///
/// Only the header is written anew; the frames are copied as they are, so that an
/// old branch key can be retired. It does not help if the data key itself leaked.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Example:\n  tidegate keys rewrap-message --config tidegate.toml --tenant acme --recipient lake old.sealed -o new.sealed"
)]
pub(crate) struct RewrapArgs {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// Configuration file, for `[keys]` and `[recipients]`
    #[arg(long, value_name = "FILE", default_value = "tidegate.toml")]
    config: PathBuf,
    /// Whose data
    #[arg(long, value_name = "NAME")]
    tenant: TenantName,
    /// Who opens
    #[arg(long, value_name = "NAME")]
    recipient: RecipientName,
    /// Which way it travels
    #[arg(long, value_enum, value_name = "WAY", default_value_t = Direction::Rest)]
    direction: Direction,
    /// A fact that is stored in the header and authenticated; opening compares it
    #[arg(long = "context", value_name = "KEY=VALUE", value_parser = pair)]
    context: Vec<(String, String)>,
    /// A fact that is authenticated and not stored: the opener must say the same
    #[arg(long = "required", value_name = "KEY=VALUE", value_parser = pair)]
    required: Vec<(String, String)>,
    /// The input; `-` is standard input
    input: PathBuf,
    /// The result; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Seals.
pub(crate) fn seal(args: &SealArgs) -> anyhow::Result<Answer> {
    let common = &args.common;
    let frame_length = FrameLength::new(args.frame)
        .with_context(|| format!("`--frame {}` is not within 1 and {}", args.frame, FrameLength::MAX))?;
    let (_, keys) = keys::load(&common.config)?;
    let (mut context, required) = (context(&common.context)?, context(&common.required)?);
    context.insert("tenant", common.tenant.as_str())?;
    context.insert("recipient", common.recipient.as_str())?;
    context.insert("direction", common.direction.name())?;
    let wrapped = runtime()?.block_on(keys.wrap(&common.scope(), &context.union(&required)?))?;
    let mut sealer = Sealer::new(NewMessage {
        message_id: MessageId::random()?,
        data_key: wrapped.data_key,
        edks: wrapped.edks,
        context,
        required,
        frame_length,
    })?;
    let mut input = Input::open(&common.input)?;
    let mut output = Output::create(&common.out)?;
    output.write(sealer.header())?;
    while let Some(piece) = input.read()? {
        let mut piece = piece.freeze();
        while !piece.is_empty() {
            if let Some(frame) = sealer.push(&mut piece)? {
                output.write(&frame)?;
            }
        }
    }
    output.write(&sealer.finish()?)?;
    output.finish()?;
    Ok(Answer::Yes)
}

/// Opens. What does not open is a negative answer, whose reason is on standard error.
pub(crate) fn open(args: &OpenArgs) -> anyhow::Result<Answer> {
    answer(open_message(&args.common), &args.common)
}

/// Wraps a message anew; what does not open is a negative answer.
pub(crate) async fn rewrap(args: &RewrapArgs) -> anyhow::Result<Answer> {
    answer(rewrap_message(&args.common).await, &args.common)
}

fn answer(done: Result<(), Failure>, common: &Common) -> anyhow::Result<Answer> {
    match done {
        Ok(()) => Ok(Answer::Yes),
        Err(Failure::Refused(reason)) => {
            writeln!(io::stderr(), "tidegate: `{}` does not open: {reason}", common.input.display())?;
            Ok(Answer::No)
        }
        Err(Failure::Error(error)) => Err(error),
    }
}

/// Why a message was not opened.
enum Failure {
    /// It is not what it should be.
    Refused(String),
    /// It could not be tried.
    Error(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        match error.downcast::<OpenError>() {
            Ok(refused) => Self::Refused(refused.to_string()),
            Err(error) => match error.downcast::<KeyError>() {
                Ok(refused @ (KeyError::Foreign(_) | KeyError::Sealed(_))) => {
                    Self::Refused(refused.to_string())
                }
                Ok(other) => Self::Error(other.into()),
                Err(error) => Self::Error(error),
            },
        }
    }
}

fn open_message(common: &Common) -> Result<(), Failure> {
    let (_, keys) = keys::load(&common.config)?;
    let required = context(&common.required)?;
    let mut input = Input::open(&common.input)?;
    let (header, _, mut rest) = read_header(&mut input)?;
    let stored = header.unverified().context().clone();
    let scope = common.scope();
    let full = stored.union(&required).context("a required fact is stored as well")?;
    let (data_key, _) = runtime()?.block_on(keys.unwrap(header.unverified().edks(), &full, &scope))?;
    let mut opener = header.verify(&data_key, &required)?;
    // Authenticated now, so a difference is what it says.
    let expected = [("tenant", scope.tenant.as_str()), ("recipient", scope.recipient.as_str())];
    let asked = common.context.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    for (key, value) in expected.into_iter().chain(asked) {
        if stored.get(key) != Some(value) && !(expected.contains(&(key, value)) && stored.get(key).is_none())
        {
            return Err(Failure::Refused(format!("its context says another `{key}`")));
        }
    }
    let mut output = Output::create(&common.out)?;
    copy(&mut opener, &mut rest, &mut input, &mut output)?;
    output.finish()?;
    Ok(())
}

/// Every frame is opened as it passes, so that what is damaged does not get a fresh header.
async fn rewrap_message(common: &Common) -> Result<(), Failure> {
    let (_, keys) = keys::load(&common.config)?;
    let required = context(&common.required)?;
    let mut input = Input::open(&common.input)?;
    let (header, bytes, mut rest) = read_header(&mut input)?;
    let full = header.unverified().context().union(&required).context("a required fact is stored as well")?;
    let scope = common.scope();
    let (data_key, _) = keys.unwrap(header.unverified().edks(), &full, &scope).await?;
    // Before a wrap is counted: a header that was changed is refused here.
    let mut opener = header.verify(&data_key, &required)?;
    let (edks, _) = keys.wrap_again(&scope, &data_key, &full).await?;
    let (again, _) = UnverifiedHeader::parse(&bytes, &Bounds::default())?.context("the header is cut off")?;
    let new = rewrap_header(again, &data_key, &required, edks).map_err(|error| match error {
        RewrapError::Open(error) => Failure::from(error),
        RewrapError::Seal(error) => Failure::from(error),
    })?;
    let mut output = Output::create(&common.out)?;
    output.write(&new)?;
    loop {
        let mut probe = rest.clone();
        while opener.next_frame(&mut probe)?.is_some() {
            let frame = rest.split_to(rest.len() - probe.len());
            output.write(&frame.freeze())?;
        }
        match input.read()? {
            Some(piece) => rest.extend_from_slice(&piece),
            None => break,
        }
    }
    opener.finish(&rest)?;
    Ok(output.finish()?)
}

fn copy(
    opener: &mut Opener,
    rest: &mut BytesMut,
    input: &mut Input,
    output: &mut Output,
) -> Result<(), Failure> {
    loop {
        while let Some(text) = opener.next_frame(rest)? {
            output.write(&text)?;
        }
        match input.read()? {
            Some(piece) => rest.extend_from_slice(&piece),
            None => return Ok(opener.finish(rest)?),
        }
    }
}

/// The header, its bytes, and what was read behind it.
fn read_header(input: &mut Input) -> Result<(UnverifiedHeader, BytesMut, BytesMut), Failure> {
    let mut bytes = BytesMut::new();
    loop {
        if let Some((header, length)) = UnverifiedHeader::parse(&bytes, &Bounds::default())? {
            let rest = bytes.split_off(length.min(bytes.len()));
            return Ok((header, bytes, rest));
        }
        match input.read()? {
            Some(piece) => bytes.extend_from_slice(&piece),
            None => return Err(OpenError::Truncated { after: 0 }.into()),
        }
    }
}

fn context(pairs: &[(String, String)]) -> anyhow::Result<EncryptionContext> {
    let mut context = EncryptionContext::new();
    for (key, value) in pairs {
        context
            .insert(key.clone(), value)
            .with_context(|| format!("`{key}` cannot be part of the context"))?;
    }
    Ok(context)
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

impl Common {
    fn scope(&self) -> Scope {
        Scope { tenant: self.tenant.clone(), recipient: self.recipient.clone(), direction: self.direction }
    }
}

/// What is read, with its progress on a terminal.
struct Input {
    from: Box<dyn Read>,
    total: Option<u64>,
    done: u64,
    began: Instant,
    shown: Option<Instant>,
}

impl Input {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let (from, total): (Box<dyn Read>, _) = if path == Path::new("-") {
            (Box::new(io::stdin().lock()), None)
        } else {
            let file = File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
            let total = file.metadata().ok().filter(fs::Metadata::is_file).map(|meta| meta.len());
            (Box::new(file), total)
        };
        Ok(Self { from, total, done: 0, began: Instant::now(), shown: None })
    }

    /// What comes next, as soon as it comes; none at the end.
    fn read(&mut self) -> anyhow::Result<Option<BytesMut>> {
        let mut piece = BytesMut::zeroed(PIECE);
        loop {
            match self.from.read(&mut piece) {
                Ok(0) => {
                    self.clear();
                    return Ok(None);
                }
                Ok(count) => {
                    piece.truncate(count);
                    self.done = self.done.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
                    self.show();
                    return Ok(Some(piece));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("the input cannot be read"),
            }
        }
    }

    /// Shows how far it is, on anything over a second.
    fn show(&mut self) {
        let mut err = io::stderr();
        let last = self.shown.unwrap_or(self.began + Duration::from_secs(1));
        if last.elapsed() < TICK || self.began.elapsed() < Duration::from_secs(1) || !err.is_terminal() {
            return;
        }
        self.shown = Some(Instant::now());
        let seconds = self.began.elapsed().as_secs().max(1);
        let rate = (self.done >> 20) / seconds;
        let line = match self.total.filter(|total| *total > 0) {
            Some(total) => {
                let part = self.done.saturating_mul(30) / total;
                let bar: String = (0..30).map(|at| if at < part { '█' } else { '░' }).collect();
                format!("\r{bar} {:>3} %  {rate} MiB/s ", self.done.saturating_mul(100) / total)
            }
            None => format!("\r{} MiB  {rate} MiB/s ", self.done >> 20),
        };
        let _ = err.write_all(line.as_bytes());
    }

    fn clear(&mut self) {
        if self.shown.take().is_some() {
            let _ = io::stderr().write_all(b"\r\x1b[2K");
        }
    }
}

/// The result: a pipe, or a file that gets its name when it is whole.
enum Output {
    Pipe(io::StdoutLock<'static>),
    File { file: Option<File>, aside: PathBuf, path: PathBuf },
}

impl Output {
    fn create(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Pipe(io::stdout().lock()));
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let aside = path.with_file_name(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside);
        let file = file.with_context(|| format!("cannot write `{}`", aside.display()))?;
        Ok(Self::File { file: Some(file), aside, path: path.to_owned() })
    }

    fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        match self {
            // A pipe's reader may wait for what is there.
            Self::Pipe(pipe) => pipe.write_all(bytes).and_then(|()| pipe.flush())?,
            Self::File { file, aside, .. } => {
                let file = file.as_mut().context("the result is closed")?;
                file.write_all(bytes).with_context(|| format!("cannot write `{}`", aside.display()))?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<()> {
        if let Self::File { file, aside, path } = &mut self
            && let Some(done) = file.take()
        {
            done.sync_all().with_context(|| format!("cannot write `{}`", aside.display()))?;
            fs::rename(&*aside, &*path).with_context(|| format!("cannot write `{}`", path.display()))?;
        }
        Ok(())
    }
}

impl Drop for Output {
    /// What is not whole does not stay.
    fn drop(&mut self) {
        if let Self::File { file: Some(_), aside, .. } = self {
            let _ = fs::remove_file(aside);
        }
    }
}
