//! A progress bar for whatever reads the journal for more than a second, if somebody is there to see it.

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::audit::verify::total_bytes;

/// How often the bar is drawn.
const TICK: Duration = Duration::from_millis(200);
/// What takes less needs no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// How far it is.
#[derive(Debug, Default)]
pub(in crate::cli) struct Bar(AtomicU64);

impl Bar {
    /// So many more bytes were read.
    pub(in crate::cli) fn add(&self, bytes: usize) {
        self.0.fetch_add(u64::try_from(bytes).unwrap_or_default(), Ordering::Relaxed);
    }

    /// The count of bytes itself, for who counts on their own.
    pub(in crate::cli) const fn bytes(&self) -> &AtomicU64 {
        &self.0
    }
}

/// Runs `work`, and draws a bar on a terminal once it takes longer than a second. `doing` is the word before it.
pub(in crate::cli) fn with<T>(journal: &Path, doing: &str, work: impl FnOnce(&Bar) -> T) -> T {
    let bar = Bar::default();
    if !io::stderr().is_terminal() {
        return work(&bar);
    }
    // A journal that cannot be listed is told by `work`.
    let total = total_bytes(journal).unwrap_or_default();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let drawing = scope.spawn(|| {
            std::thread::park_timeout(PATIENCE);
            if !done.load(Ordering::Acquire) {
                draw(&bar, total, doing, &done);
            }
        });
        let result = work(&bar);
        done.store(true, Ordering::Release);
        drawing.thread().unpark();
        result
    })
}

fn draw(bar: &Bar, total: u64, doing: &str, done: &AtomicBool) {
    let drawn = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let style = format!("{doing} {{wide_bar}} {{bytes}}/{{total_bytes}} {{binary_bytes_per_sec}} {{eta}}");
    drawn.set_style(ProgressStyle::with_template(&style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    while !done.load(Ordering::Acquire) {
        drawn.set_position(bar.bytes().load(Ordering::Relaxed));
        std::thread::park_timeout(TICK);
    }
    drawn.finish_and_clear();
}
