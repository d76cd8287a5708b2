//! A chart of the runs over time: what counts at the provider against its limit, the calls that
//! wait, and for how long the oldest of them has.

use std::{error::Error, time::Duration};

use plotters::{coord::Shift, prelude::*};
use tower_throttle::simulate::{Moment, Simulation, SimulationReport};

use crate::words;

const WIDTH: u32 = 900;
const HEIGHT: u32 = 780;
/// A line has no more points than this.
const POINTS: usize = 240;
const COLOURS: [RGBColor; 7] = [
    RGBColor(204, 51, 51),
    RGBColor(230, 145, 56),
    RGBColor(142, 99, 206),
    RGBColor(120, 120, 120),
    RGBColor(30, 120, 200),
    RGBColor(20, 150, 90),
    RGBColor(0, 0, 0),
];

/// One panel: its title, and what it draws of a moment.
struct Panel<'a> {
    title: String,
    value: Box<dyn Fn(&Moment) -> f64 + 'a>,
    limit: Option<f64>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws an SVG of all runs.
pub(super) fn draw(
    simulation: &Simulation,
    reports: &[SimulationReport],
) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, HEIGHT)).into_drawing_area();
        root.fill(&WHITE)?;
        let panels = panels(simulation, reports);
        for (index, (area, panel)) in root.split_evenly((3, 1)).iter().zip(&panels).enumerate() {
            draw_panel(area, panel, reports, index == 1)?;
        }
        root.present()?;
    }
    Ok(text)
}

/// The last minute that is drawn.
fn end(reports: &[SimulationReport]) -> f64 {
    // Runs that take many times as long as the others would press them to the edge.
    let longest = reports.iter().map(|report| report.makespan).max().unwrap_or_default();
    let best = reports.first().map_or(Duration::ZERO, |report| report.best);
    longest.min(best.mul_f64(2.0)).as_secs_f64().max(1.0) / 60.0
}

fn draw_panel(
    area: &Area<'_>,
    panel: &Panel<'_>,
    reports: &[SimulationReport],
    has_names: bool,
) -> Result<(), Box<dyn Error>> {
    let end = end(reports);
    let most = reports.iter().flat_map(|report| &report.moments).map(|m| (panel.value)(m));
    let top = most.fold(panel.limit.unwrap_or(1.0), f64::max) * 1.08;
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 15))
        .margin(8)
        .x_label_area_size(26)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..end, 0.0..top)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(12)
        .y_labels(6)
        .x_label_formatter(&|minutes| format!("{minutes:.0} min"))
        .y_label_formatter(&|value| amount(*value))
        .draw()?;
    if let Some(limit) = panel.limit {
        chart.draw_series(LineSeries::new([(0.0, limit), (end, limit)], BLACK))?;
    }
    for (report, colour) in reports.iter().zip(COLOURS.iter().cycle()) {
        let line = thinned(&report.moments, &panel.value);
        let line = line.into_iter().filter(|(minutes, _)| *minutes <= end);
        chart
            .draw_series(LineSeries::new(line, colour))?
            .label(report.strategy.name())
            .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], *colour));
    }
    if has_names {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(TRANSPARENT)
            .draw()?;
    }
    Ok(())
}

fn panels<'a>(simulation: &'a Simulation, reports: &'a [SimulationReport]) -> Vec<Panel<'a>> {
    let quotas = simulation.provider().quotas();
    let binding = reports.first().and_then(|report| report.binding.as_deref());
    let place = quotas.iter().position(|quota| Some(quota.name()) == binding).unwrap_or(0);
    let name = quotas.get(place).map_or("", |quota| quota.name());
    let limit = reports.first().and_then(|report| report.quotas.get(place));
    vec![
        Panel {
            title: format!("{}: what counts at the provider, and its limit", words::plain(name)),
            value: Box::new(move |moment| moment.levels.get(place).copied().unwrap_or(0.0)),
            limit: limit.map(|quota| quota.capacity as f64),
        },
        Panel {
            title: "calls that wait".to_owned(),
            value: Box::new(|moment| moment.waiting as f64),
            limit: None,
        },
        Panel {
            title: "how long the oldest of them has waited, in seconds".to_owned(),
            value: Box::new(|moment| moment.oldest.as_secs_f64()),
            limit: None,
        },
    ]
}

/// The largest values of equal parts of a run, as points over minutes.
fn thinned(moments: &[Moment], value: &dyn Fn(&Moment) -> f64) -> Vec<(f64, f64)> {
    let size = moments.len().div_ceil(POINTS).max(1);
    let parts = moments.chunks(size).filter_map(|part| {
        let at = part.first()?.at.as_secs_f64() / 60.0;
        Some((at, part.iter().map(value).fold(0.0, f64::max)))
    });
    parts.collect()
}

/// `450k`.
fn amount(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{:.1}M", value / 1e6),
        value if value >= 1e4 => format!("{:.0}k", value / 1e3),
        value => format!("{value:.0}"),
    }
}
