//! Line charts as SVG.
//!
//! A chart stands in a page, whose style sheet then sets type and the colours of axes (the two that
//! [`AXIS`] and [`GRID`] name), or alone as a file with a white ground and a legend of its own.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::series::DashedLineSeries;
use std::fmt::Display;

/// Colours of lines, in order: apart from each other for any eye, and legible on white and on black.
pub const COLORS: [&str; 8] =
    ["#3B82D6", "#E0742B", "#2A9D74", "#C2487F", "#8B68D4", "#A88A1E", "#2A9FB5", "#8A8F98"];
/// Colour of labels, ticks and axes.
pub const AXIS: &str = "#6B7280";
/// Colour of the lines of the grid.
pub const GRID: &str = "#E5E7EB";

/// A line through points.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// For the legend.
    pub name: String,
    /// In order of x.
    pub points: Vec<(f64, f64)>,
    /// Index into [`COLORS`], which begin again after the last.
    pub color: usize,
    /// Whether it is a level to compare with.
    pub dashed: bool,
}

/// A chart of one or more lines over a common x.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// What x counts.
    pub x_label: String,
    /// What y is; shown where the chart stands alone.
    pub y_label: String,
    /// Lines, drawn in order.
    pub series: Vec<Series>,
    /// A point to mark, on the line of the given color.
    pub mark: Option<(f64, f64, usize)>,
    /// Whether the y axis begins at 0.
    pub from_zero: bool,
}

/// Where a chart is going to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// In a page that styles it.
    Page,
    /// In a file of its own.
    File,
}

impl Chart {
    /// The chart as an SVG document of `size` pixels. A chart without a finite point is an empty text.
    ///
    /// # Errors
    /// What the library says; no input is known to bring it about.
    pub fn to_svg(&self, size: (u32, u32), ground: Ground) -> Result<String, impl Display + use<>> {
        let mut text = String::new();
        match self.bounds() {
            Some(bounds) => self.draw(&mut text, size, ground, bounds).map(|()| text),
            None => Ok(text),
        }
    }

    fn draw(
        &self,
        text: &mut String,
        size: (u32, u32),
        ground: Ground,
        (x, y): (Range, Range),
    ) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        let area = SVGBackend::with_string(text, size).into_drawing_area();
        let alone = ground == Ground::File;
        if alone {
            area.fill(&WHITE)?;
        }
        let font = ("sans-serif", 16).into_font().color(&color(AXIS));
        let mut builder = ChartBuilder::on(&area);
        builder.margin(10).margin_right(18).x_label_area_size(46).y_label_area_size(58);
        let mut chart = builder.build_cartesian_2d(x.0..x.1, y.0..y.1)?;
        let digits = digits(y.1 - y.0);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(color(GRID))
            .axis_style(color(AXIS))
            .label_style(font.clone())
            .axis_desc_style(font.clone())
            .x_desc(&self.x_label)
            .y_desc(if alone { self.y_label.as_str() } else { "" })
            .x_labels(8)
            .y_labels(6)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.digits$}"))
            .draw()?;
        for series in &self.series {
            let style = color(COLORS[series.color % COLORS.len()]).stroke_width(2);
            let points = series.points.iter().copied().filter(finite);
            let drawn = match (series.dashed, series.points.len()) {
                (true, _) => chart.draw_series(DashedLineSeries::new(points, 7, 5, style))?,
                (_, 1) => chart.draw_series(points.map(|at| Circle::new(at, 3, style.filled())))?,
                _ => chart.draw_series(LineSeries::new(points, style))?,
            };
            drawn
                .label(&series.name)
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], style));
        }
        if let Some((x, y, index)) = self.mark {
            let style = color(COLORS[index % COLORS.len()]).filled();
            chart.draw_series([Circle::new((x, y), 5, style)])?;
        }
        if alone {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::LowerRight)
                .background_style(WHITE.mix(0.85))
                .border_style(color(GRID))
                .label_font(font)
                .draw()?;
        }
        present(&area)
    }

    /// Ranges of both axes with some air around the lines.
    fn bounds(&self) -> Option<(Range, Range)> {
        let points =
            || self.series.iter().flat_map(|series| &series.points).copied().filter(finite);
        let x = range(points().map(|point| point.0))?;
        let (low, high) = range(points().map(|point| point.1))?;
        let low = if self.from_zero { low.min(0.0) } else { low };
        let air = 0.06 * (high - low).max(1e-3 * high.abs()).max(1e-12);
        let below = if self.from_zero && low == 0.0 { 0.0 } else { air };
        // A single evaluation stands in the middle.
        let width = if x.0 == x.1 { 1.0 } else { 0.0 };
        Some(((x.0 - width, x.1 + width), (low - below, high + air)))
    }
}

type Range = (f64, f64);

fn present(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    area.present()
}

fn finite(point: &(f64, f64)) -> bool {
    point.0.is_finite() && point.1.is_finite()
}

fn range(values: impl Iterator<Item = f64>) -> Option<Range> {
    values.fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((low, high)) => Some((low.min(value), high.max(value))),
    })
}

/// Decimal places that tell labels apart over `span`.
fn digits(span: f64) -> usize {
    (1.0 - span.log10().floor()).clamp(0.0, 8.0) as usize
}

/// `#RRGGBB` as the library's color.
pub(crate) fn color(hex: &str) -> RGBColor {
    let part = |at: usize| u8::from_str_radix(hex.get(at..at + 2).unwrap_or("0"), 16).unwrap_or(0);
    RGBColor(part(1), part(3), part(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: &[(f64, f64)]) -> Chart {
        let series = Series {
            name: "<one> & \"two\"".to_string(),
            points: points.to_vec(),
            color: 9,
            dashed: false,
        };
        Chart {
            x_label: "<x>".to_string(),
            y_label: "y".to_string(),
            series: vec![series],
            mark: points.first().map(|&(x, y)| (x, y, 9)),
            from_zero: false,
        }
    }

    #[test]
    fn text_is_escaped_and_numbers_are_drawn() {
        let svg = chart(&[(1.0, 0.1), (2.0, 0.3), (3.0, 0.2)]).to_svg((400, 240), Ground::File);
        let svg = svg.unwrap_or_else(|error| panic!("{error}"));
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(!svg.contains("<x>") && svg.contains("&lt;x&gt;"), "{svg}");
        assert!(!svg.contains("<one>") && svg.contains("&lt;one&gt;"), "{svg}");
        assert!(svg.contains(COLORS[1]), "colors begin again");
    }

    #[test]
    fn odd_points_do_no_harm() {
        let cases: [&[(f64, f64)]; 6] = [
            &[],
            &[(1.0, 2.0)],
            &[(1.0, 0.0), (2.0, 0.0)],
            &[(1.0, f64::NAN), (2.0, 1.0)],
            &[(1.0, f64::INFINITY)],
            &[(0.0, -1e300), (1.0, 1e300)],
        ];
        for points in cases {
            for from_zero in [false, true] {
                for ground in [Ground::Page, Ground::File] {
                    let svg = Chart { from_zero, ..chart(points) }.to_svg((300, 200), ground);
                    let svg = svg.unwrap_or_else(|error| panic!("{points:?}: {error}"));
                    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
                    assert_eq!(svg.is_empty(), !points.iter().any(finite), "{points:?}");
                }
            }
        }
    }
}
