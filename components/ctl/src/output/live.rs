//! A screen that is drawn again and again, until the person leaves it.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::termios::{self, LocalModes, OptionalActions, SpecialCodeIndex, Termios};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::{Paint, brief, print};

/// Between frames.
const INTERVAL: Duration = Duration::from_secs(1);

/// Another screen, so that the shell's is as it was afterwards; no cursor; a line that is too long ends at the border.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// To the upper left corner.
const HOME: &str = "\x1b[H";
/// What an older frame left behind: on this line, below it.
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// Shows what `frame` gives for a screen of so many columns, once a second, until `q`, Ctrl-C or an end of the terminal.
/// A frame that fails is shown as its error, and tried again: the supervisor may be about to come back.
pub(crate) async fn live(
    mut frame: impl AsyncFnMut(Paint, usize) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let paint = Paint::of_stdout();
    let mut leave = Leave::new()?;
    let mut screen = Screen::enter()?;
    let mut resized = signal(SignalKind::window_change())?;
    let mut beat = tokio::time::interval(INTERVAL);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = beat.tick() => {}
            _ = resized.recv() => {}
            () = leave.wanted(&mut screen) => return Ok(()),
        }
        let (columns, lines) = Screen::size();
        let text = tokio::select! {
            text = frame(paint, columns) => text,
            () = leave.wanted(&mut screen) => return Ok(()),
        };
        let text = text.unwrap_or_else(|error| brief(&format!("{error:#}"), columns));
        print(&fit(&text, lines))?;
    }
}

/// The text as one screenful of so many lines; what is longer is cut.
fn fit(text: &str, lines: usize) -> String {
    let shown: Vec<&str> = text.lines().take(lines.max(1)).collect();
    let mut screenful = String::from(HOME);
    screenful.push_str(&shown.join(&format!("{CLEAR_LINE}\n")));
    screenful.push_str(CLEAR_LINE);
    screenful.push_str(CLEAR_BELOW);
    screenful
}

/// The ways out.
struct Leave {
    signals: [Signal; 3],
}

impl Leave {
    fn new() -> io::Result<Self> {
        let signals = [
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ];
        Ok(Self { signals })
    }

    async fn wanted(&mut self, screen: &mut Screen) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            () = screen.quit_key() => {}
        }
    }
}

/// The terminal while it is ours; as it was when this is dropped.
struct Screen {
    before: Arc<Before>,
    quit: mpsc::Receiver<()>,
}

impl Screen {
    fn enter() -> anyhow::Result<Self> {
        let (pressed, quit) = mpsc::channel(1);
        // Keys come one by one, and unseen. A terminal that is only written to has none.
        let terminal = File::open("/dev/tty").ok();
        let terminal = terminal.and_then(|terminal| Some((termios::tcgetattr(&terminal).ok()?, terminal)));
        let before = Arc::new(Before { terminal, left: AtomicBool::new(false) });
        let screen = Self { before: Arc::clone(&before), quit };
        if let Some((modes, terminal)) = &before.terminal {
            let mut ours = modes.clone();
            make_ours(&mut ours);
            termios::tcsetattr(terminal, OptionalActions::Now, &ours)?;
            let keys = terminal.try_clone()?;
            // Reading cannot be interrupted: the thread ends with the process.
            std::thread::spawn(move || wait_for_q(keys, &pressed));
        }
        // A panic aborts: nothing is dropped. And what it says would go with this screen.
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            before.restore();
            report(panic);
        }));
        print(ENTER)?;
        Ok(screen)
    }

    /// Columns and lines; a terminal that does not know is taken for an old one.
    fn size() -> (usize, usize) {
        let known = termios::tcgetwinsize(io::stdout().as_fd()).ok();
        known
            .filter(|size| size.ws_col > 0 && size.ws_row > 0)
            .map_or((80, 24), |size| (size.ws_col.into(), size.ws_row.into()))
    }

    /// Ends when the person presses `q`, never otherwise.
    async fn quit_key(&mut self) {
        if self.quit.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

fn make_ours(terminal: &mut Termios) {
    terminal.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
    // A program that was stopped (Ctrl-Z) or killed with a core (Ctrl-\) would leave its screen to the shell.
    for key in [SpecialCodeIndex::VSUSP, SpecialCodeIndex::VQUIT] {
        terminal.special_codes[key] = 0;
    }
}

fn wait_for_q(mut keys: File, pressed: &mpsc::Sender<()>) {
    let mut some = [0; 64];
    loop {
        match keys.read(&mut some) {
            Ok(0) | Err(_) => return,
            Ok(count) if some[..count].iter().any(|key| matches!(key, b'q' | b'Q')) => {
                let _ = pressed.blocking_send(());
                return;
            }
            Ok(_) => {}
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.before.restore();
    }
}

/// The terminal as it was.
struct Before {
    terminal: Option<(Termios, File)>,
    left: AtomicBool,
}

impl Before {
    /// Once: later the screen is somebody else's.
    fn restore(&self) {
        if self.left.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Some((modes, terminal)) = &self.terminal {
            let _ = termios::tcsetattr(terminal, OptionalActions::Now, modes);
        }
        let _ = print(LEAVE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_leaves_nothing_of_the_one_before() {
        assert_eq!(fit("a\nb\n", 10), "\x1b[Ha\x1b[K\nb\x1b[K\x1b[J");
    }

    #[test]
    fn a_frame_does_not_scroll_the_screen() {
        assert_eq!(fit("1\n2\n3\n", 2).matches('\n').count(), 1);
    }
}
