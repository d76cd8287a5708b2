//! Where calls come from: a CSV file in the format of the Azure LLM inference traces, or a
//! generator of calls like those. Knows nothing of limits.

use std::{fmt, fs, io, path::Path, path::PathBuf, time::Duration};

/// One call of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// When it came, after the first.
    pub at: Duration,
    /// Tokens of the prompt.
    pub context: u64,
    /// Tokens of the answer.
    pub generated: u64,
}

/// Why a trace cannot be replayed.
#[derive(Debug)]
pub enum TraceError {
    /// The file cannot be read.
    Io(PathBuf, io::Error),
    /// A line is not as it should be: file, number of the line, what is wrong.
    Line(PathBuf, usize, String),
    /// There is no call in it.
    Empty(PathBuf),
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, _) => write!(f, "cannot read {}", path.display()),
            Self::Line(path, line, wrong) => write!(f, "{}, line {line}: {wrong}", path.display()),
            Self::Empty(path) => write!(f, "{}: no call with a token in it", path.display()),
        }
    }
}

impl std::error::Error for TraceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, error) => Some(error),
            _ => None,
        }
    }
}

const HEADER: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";

/// Reads the calls of a file, in the order in which they came.
pub(crate) fn read(path: &Path) -> Result<Vec<Row>, TraceError> {
    let io = |error| TraceError::Io(path.into(), error);
    rows(&fs::read_to_string(path).map_err(io)?)
        .map_err(|(line, wrong)| TraceError::Line(path.into(), line, wrong))
}

/// The rows of a file's text, or the number of a line and what is wrong with it.
fn rows(text: &str) -> Result<Vec<Row>, (usize, String)> {
    let mut lines = text.lines().enumerate();
    let header = lines.next().map_or("", |(_, line)| line);
    if header.trim_start_matches('\u{feff}').trim() != HEADER {
        return Err((1, format!("expected the header `{HEADER}`, found `{}`", shorten(header))));
    }
    let mut rows = Vec::new();
    for (index, line) in lines {
        if !line.trim().is_empty() {
            rows.push(row(line).map_err(|wrong| (index + 1, wrong))?);
        }
    }
    rows.sort_by_key(|row| row.at);
    let first = rows.first().map_or(Duration::ZERO, |row| row.at);
    for row in &mut rows {
        row.at -= first;
    }
    Ok(rows)
}

fn row(line: &str) -> Result<Row, String> {
    let mut fields = line.split(',').map(str::trim);
    let (Some(at), Some(context), Some(generated), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(format!("expected three fields, found `{}`", shorten(line)));
    };
    let tokens = |name: &str, field: &str| match field.parse::<u32>() {
        Ok(tokens) => Ok(u64::from(tokens)),
        Err(_) => Err(format!("{name} is not a number of tokens: `{}`", shorten(field))),
    };
    Ok(Row {
        at: timestamp(at).ok_or_else(|| {
            format!("TIMESTAMP is not like `2023-11-16 18:15:46.6805900`: `{}`", shorten(at))
        })?,
        context: tokens("ContextTokens", context)?,
        generated: tokens("GeneratedTokens", generated)?,
    })
}

/// A field of a broken file may be the whole file.
fn shorten(field: &str) -> String {
    match field.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &field[..end]),
        None => field.to_owned(),
    }
}

/// The time of `YYYY-MM-DD HH:MM:SS[.fraction]` since the year 0.
fn timestamp(text: &str) -> Option<Duration> {
    let (date, time) = text.split_once([' ', 'T'])?;
    let [year, month, day] = numbers(date, '-')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = numbers(time, ':')?;
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let lengths = [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let month = usize::try_from(month).ok().filter(|month| (1..=12).contains(month))?;
    if !(1..=9999).contains(&year) || !(1..=lengths[month - 1]).contains(&day) {
        return None;
    }
    // 60 is a leap second.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let leap_days = (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    let days = year * 365 + leap_days + lengths[..month - 1].iter().sum::<u64>() + day;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    if fraction.is_empty()
        || fraction.len() > 9
        || !fraction.bytes().all(|byte| byte.is_ascii_digit())
    {
        return None;
    }
    let nanos = format!("{fraction:0<9}").parse().ok()?;
    Some(Duration::new(seconds, nanos))
}

fn numbers(text: &str, separator: char) -> Option<[u64; 3]> {
    let mut fields = text.split(separator);
    let mut numbers = [0; 3];
    for number in &mut numbers {
        let field = fields.next()?;
        if field.is_empty() || !field.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *number = field.parse().ok()?;
    }
    fields.next().is_none().then_some(numbers)
}

/// Calls like those of a chat service: log-normal in length, at random instants, five a second. The
/// same seed makes the same calls.
pub(crate) fn generate(seed: u64, calls: usize) -> Vec<Row> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut at = Duration::ZERO;
    let mut rows = Vec::with_capacity(calls);
    for _ in 0..calls {
        rows.push(Row {
            at,
            context: log_normal(&mut random, 800.0, 0.8),
            generated: log_normal(&mut random, 160.0, 0.7),
        });
        at += Duration::from_secs_f64(-0.2 * (1.0 - random.f64()).ln());
    }
    rows
}

fn log_normal(random: &mut fastrand::Rng, median: f64, sigma: f64) -> u64 {
    // Box-Muller; the first factor is of (0, 1], whose logarithm is finite.
    let normal =
        (-2.0 * (1.0 - random.f64()).ln()).sqrt() * (std::f64::consts::TAU * random.f64()).cos();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, and cut when too large"
    )]
    let tokens = (median * (sigma * normal).exp()) as u64;
    tokens.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_azure_trace_is_read() {
        let text = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.6805900,374,44\r\n\
                    2023-11-16 18:15:50.9951690,396,109\r\n2023-11-17 00:00:00,91,16";
        let row = |at, context, generated| Row { at, context, generated };
        assert_eq!(
            rows(text),
            Ok(vec![
                row(Duration::ZERO, 374, 44),
                row(Duration::new(4, 314_579_000), 396, 109),
                row(Duration::new(20_653, 319_410_000), 91, 16),
            ])
        );
    }

    #[test]
    fn rows_come_out_in_the_order_of_their_time() {
        let text = format!("{HEADER}\n2024-03-01 00:00:00,2,2\n\n2024-02-28 23:59:59.5,1,1\n");
        let rows = rows(&text).expect("read");
        assert_eq!((rows[0].context, rows[1].context), (1, 2));
        assert_eq!(rows[1].at, Duration::from_secs_f64(86_400.5), "a leap day between them");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let long = "9".repeat(500);
        for (text, line, named) in [
            ("", 1, "header"),
            ("a,b,c\n", 1, "header"),
            ("{H}\n2023-11-16 18:15:46,1,1\n2023-11-16 18:15:47,1", 3, "three fields"),
            ("{H}\n2023-11-16 18:15:46,1,1,1", 2, "three fields"),
            ("{H}\n\n2023-11-16 18:15:46,-1,1", 3, "ContextTokens"),
            ("{H}\n2023-11-16 18:15:46,1,{L}", 2, "GeneratedTokens"),
            ("{H}\n2023-11-16,1,1", 2, "TIMESTAMP"),
            ("{H}\n2023-11-31 18:15:46,1,1", 2, "TIMESTAMP"),
            ("{H}\n2023-02-29 18:15:46,1,1", 2, "TIMESTAMP"),
            ("{H}\n2023-11-16 24:15:46,1,1", 2, "TIMESTAMP"),
            ("{H}\n2023-11-16 18:15:46.,1,1", 2, "TIMESTAMP"),
            ("{H}\n2023-11-16 +8:15:46,1,1", 2, "TIMESTAMP"),
            ("{H}\n99999999999999999999-11-16 18:15:46,1,1", 2, "TIMESTAMP"),
        ] {
            let (at, wrong) =
                rows(&text.replace("{H}", HEADER).replace("{L}", &long)).expect_err(text);
            assert_eq!(at, line, "{text}");
            assert!(wrong.contains(named), "{wrong}");
            assert!(wrong.len() < 200, "{wrong}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = read(Path::new("no/such.csv")).expect_err("not there");
        assert!(error.to_string().contains("no/such.csv"));
        assert!(std::error::Error::source(&error).is_some());
    }

    #[test]
    fn a_seed_makes_its_calls() {
        let calls = generate(1, 300);
        assert_eq!(calls, generate(1, 300));
        assert_ne!(calls, generate(2, 300));
        let mean = |of: fn(&Row) -> u64| calls.iter().map(of).sum::<u64>() / 300;
        assert!((800..1_600).contains(&mean(|row| row.context)));
        assert!((150..300).contains(&mean(|row| row.generated)));
    }
}
