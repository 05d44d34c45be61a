//! Structured logs: one JSON object a line, or text for people; the level changes live.

use api::felix::LogSeverity;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt, reload};

use crate::args::{LogArgs, LogFormat};

/// Every failed connect of every watch is an error to the client library; the watches say once that they broke and when they are back.
const QUIET: &str = "kube_client::client::builder=off";

/// Changes what is logged while the daemon runs.
#[derive(Clone, Debug)]
pub struct LogFilter {
    handle: reload::Handle<EnvFilter, Registry>,
    /// From the command line: it holds while FelixConfiguration says nothing.
    base: String,
}

impl LogFilter {
    /// Follows `logSeverityScreen`; `None` returns to what the command line said.
    pub fn follow(&self, severity: Option<LogSeverity>) {
        let directive = match severity {
            Some(LogSeverity::Trace) => "trace",
            Some(LogSeverity::Debug) => "debug",
            Some(LogSeverity::Warning) => "warn",
            Some(LogSeverity::Error | LogSeverity::Fatal) => "error",
            Some(LogSeverity::Info) | None => &self.base,
        };
        let wanted = filter(directive);
        let same = self
            .handle
            .with_current(|now| now.to_string() == wanted.to_string())
            .unwrap_or(false);
        if same {
            return;
        }
        if let Err(error) = self.handle.reload(wanted) {
            tracing::warn!(%error, "log level not changed");
        }
    }
}

fn filter(directives: &str) -> EnvFilter {
    EnvFilter::new(format!("{directives},{QUIET}"))
}

/// Installs the logger of this process. Lines go to standard error.
pub fn init(args: &LogArgs) -> LogFilter {
    let (filter, handle) = reload::Layer::new(filter(&args.log));
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match args.log_format {
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .boxed(),
        LogFormat::Text => lines.with_ansi(false).boxed(),
    };
    let installed = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init();
    if installed.is_err() {
        // Only a test that already logs gets here, and it keeps its own logger.
        tracing::debug!("a logger was installed before");
    }
    LogFilter {
        handle,
        base: args.log.clone(),
    }
}
