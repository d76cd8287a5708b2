//! Reads calls from CSV.

use std::{sync::Arc, time::Duration};

use jiff::civil::DateTime;

use super::{
    enforced::LONGEST,
    trace_call::{TraceCall, TraceError},
};

/// No call of a trace has more tokens, so that sums stay far from their bounds.
const MOST_TOKENS: u64 = 100_000_000;

/// Where the fields of a call stand.
struct Columns {
    arrival: usize,
    input: usize,
    output: usize,
    max_tokens: Option<usize>,
    class: Option<usize>,
    share: Option<usize>,
}

impl Columns {
    fn new(header: &str) -> Result<Self, TraceError> {
        let header = header.trim_start_matches('\u{feff}');
        let names: Vec<_> = header.split(',').map(|name| name.trim().to_lowercase()).collect();
        let place = |wanted: [&str; 2]| {
            names.iter().position(|name| wanted.iter().any(|wanted| wanted == name))
        };
        let needed = |wanted: [&str; 2]| {
            let missing = || {
                let [name, other] = wanted;
                TraceError::at(1, format!("there is no column `{name}` (or `{other}`)"))
            };
            place(wanted).ok_or_else(missing)
        };
        Ok(Self {
            arrival: needed(["arrival", "timestamp"])?,
            input: needed(["input", "contexttokens"])?,
            output: needed(["output", "generatedtokens"])?,
            max_tokens: place(["max_tokens"; 2]),
            class: place(["class"; 2]),
            share: place(["share"; 2]),
        })
    }
}

/// The calls of a text, by when they come. Times of the calendar are since the first day of 1970.
pub(super) fn calls(text: &str) -> Result<Vec<TraceCall>, TraceError> {
    let mut lines = text.lines().enumerate();
    let columns = Columns::new(lines.next().map_or("", |(_, line)| line))?;
    let mut names = Vec::new();
    let rows = lines.filter(|(_, line)| !line.trim().is_empty());
    let calls = rows.map(|(index, line)| {
        call(line, &columns, &mut names).map_err(|reason| TraceError::at(index + 1, reason))
    });
    let calls = calls.collect::<Result<Vec<_>, _>>()?;
    if calls.is_empty() {
        return Err(TraceError::at(1, "no call follows"));
    }
    Ok(calls)
}

fn call(line: &str, columns: &Columns, names: &mut Vec<Arc<str>>) -> Result<TraceCall, String> {
    let fields: Vec<_> = line.split(',').map(str::trim).collect();
    let field = |column: usize| fields.get(column).copied().unwrap_or_default();
    let tokens = |name: &str, column: usize| match field(column).parse() {
        Ok(tokens) if tokens <= MOST_TOKENS => Ok(tokens),
        _ => Err(format!("the {name} is no number of tokens: `{}`", shortened(field(column)))),
    };
    let given = |column: Option<usize>| column.filter(|column| !field(*column).is_empty());
    let max_tokens = given(columns.max_tokens).map(|column| tokens("max_tokens", column));
    let mut name = |column: Option<usize>| given(column).map(|column| shared(names, field(column)));
    let (class, share) = (name(columns.class), name(columns.share));
    let text = field(columns.arrival);
    let arrival = arrival(text).ok_or_else(|| {
        format!("the arrival is neither seconds nor a date and time: `{}`", shortened(text))
    })?;
    let (input, output) = (tokens("input", columns.input)?, tokens("output", columns.output)?);
    let max_tokens = max_tokens.transpose()?;
    Ok(TraceCall { max_tokens, class, share, ..TraceCall::new(arrival, input, output) })
}

/// One of a few names that come again and again.
fn shared(names: &mut Vec<Arc<str>>, name: &str) -> Arc<str> {
    if let Some(known) = names.iter().find(|known| ***known == *name) {
        return known.clone();
    }
    names.push(name.into());
    name.into()
}

fn arrival(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<f64>() {
        return (0.0..LONGEST.as_secs_f64())
            .contains(&seconds)
            .then(|| Duration::from_secs_f64(seconds));
    }
    let time: DateTime = text.parse().ok()?;
    let epoch = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
    Duration::try_from(time.duration_since(epoch)).ok()
}

/// A field of a broken file may be the whole file.
fn shortened(field: &str) -> String {
    match field.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &field[..end]),
        None => field.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(u64, u64, u64)> {
        let calls = calls(text).unwrap();
        calls
            .iter()
            .map(|call| (call.arrival.as_millis() as u64, call.input, call.output))
            .collect()
    }

    #[test]
    fn seconds_and_times_of_the_calendar_are_read() {
        assert_eq!(read("arrival,input,output\n0,1,2\r\n\n1.5,3,4\n"), [(0, 1, 2), (1_500, 3, 4)]);
        let azure = "\u{feff}TIMESTAMP,ContextTokens,GeneratedTokens\n\
                     1970-01-02 00:00:01.6805900,374,44\n1970-01-02T00:00:02,91,16";
        assert_eq!(read(azure), [(86_401_680, 374, 44), (86_402_000, 91, 16)]);
    }

    #[test]
    fn columns_may_stand_in_any_order_and_some_be_left_out() {
        let text = "share,output,class,x,input,arrival,max_tokens\na,2,b,?,1,0,9\n,2,,?,1,0,\n,2";
        let error = calls(text).unwrap_err().to_string();
        assert!(error.starts_with("line 4: "), "{error}");
        let calls = calls(&text[..text.len() - 3]).unwrap();
        assert_eq!((calls[0].share.as_deref(), calls[0].class.as_deref()), (Some("a"), Some("b")));
        assert_eq!((calls[0].max_tokens, calls[1].max_tokens), (Some(9), None));
        assert_eq!((calls[1].share.as_deref(), calls[1].class.as_deref()), (None, None));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let long = "9".repeat(500);
        for (text, line, named) in [
            ("", 1, "`arrival`"),
            ("arrival,input\n", 1, "`output`"),
            ("{H}", 1, "no call"),
            ("{H}\n\n0,-1,1", 3, "input"),
            ("{H}\n0,1", 2, "output"),
            ("{H}\n0,1,{L}", 2, "output"),
            ("{H}\n-1,1,1", 2, "arrival"),
            ("{H}\nNaN,1,1", 2, "arrival"),
            ("{H}\n1e300,1,1", 2, "arrival"),
            ("{H}\n2023-02-29 18:15:46,1,1", 2, "arrival"),
            ("{H}\n0001-02-28 18:15:46,1,1", 2, "arrival"),
        ] {
            let text = text.replace("{H}", "arrival,input,output").replace("{L}", &long);
            let error = calls(&text).expect_err(&text).to_string();
            assert!(error.starts_with(&format!("line {line}: ")), "{error}");
            assert!(error.contains(named) && error.len() < 200, "{error}");
        }
    }
}
