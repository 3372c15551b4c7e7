//! Bars side by side, as SVG: a group for each case, a bar for each who was measured.

use crate::plot::{AXIS, COLORS, color};
use plotters::prelude::*;

/// Height of a bar, and what a group has above it, in pixels.
const BAR: i32 = 18;
const GROUP: i32 = 26;
/// Where bars begin, how long the longest is, and how wide all is.
const LEFT: i32 = 220;
const LONGEST: f64 = 560.0;
const WIDTH: u32 = 900;

/// A chart of bars from 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Bars {
    /// What they show, with the unit.
    pub title: String,
    /// Groups with their bars: name and length. What is not finite or below 0 is left out.
    pub groups: Vec<(String, Vec<(String, f64)>)>,
}

impl Bars {
    /// As a document of its own, with `lines` below that say where the numbers come from.
    ///
    /// # Errors
    /// What the library says; no input is known to bring it about.
    pub fn to_svg(&self, lines: &[String]) -> Result<String, impl std::fmt::Display + use<>> {
        let mut text = String::new();
        self.draw(&mut text, lines).map(|()| text)
    }

    fn draw(
        &self,
        text: &mut String,
        lines: &[String],
    ) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        let bars: i32 = self.groups.iter().map(|(_, bars)| bars.len() as i32).sum();
        let height =
            2 * GROUP + GROUP * self.groups.len() as i32 + BAR * (bars + lines.len() as i32);
        let area = SVGBackend::with_string(text, (WIDTH, height as u32)).into_drawing_area();
        area.fill(&WHITE)?;
        let font = |size: i32| ("sans-serif", size).into_font().color(&color(AXIS));
        area.draw(&Text::new(self.title.as_str(), (10, 10), font(16)))?;
        let is_drawn = |length: &f64| length.is_finite() && *length >= 0.0;
        let lengths = self.groups.iter().flat_map(|(_, bars)| bars).map(|(_, length)| *length);
        let longest = lengths.filter(is_drawn).fold(f64::MIN_POSITIVE, f64::max);
        let mut names: Vec<&str> = Vec::new();
        let mut y = GROUP + 10;
        for (group, bars) in &self.groups {
            area.draw(&Text::new(group.as_str(), (10, y + 6), font(15)))?;
            y += GROUP;
            for (name, length) in bars {
                let known = names.iter().position(|known| known == name);
                let index = known.unwrap_or_else(|| {
                    names.push(name);
                    names.len() - 1
                });
                area.draw(&Text::new(name.as_str(), (24, y + 2), font(13)))?;
                if is_drawn(length) {
                    let end = LEFT + (LONGEST * length / longest) as i32;
                    let style = color(COLORS[index % COLORS.len()]).filled();
                    area.draw(&Rectangle::new([(LEFT, y), (end, y + BAR - 3)], style))?;
                    area.draw(&Text::new(shown(*length), (end + 6, y + 2), font(13)))?;
                }
                y += BAR;
            }
        }
        y += GROUP / 2;
        for line in lines {
            area.draw(&Text::new(line.as_str(), (10, y), font(11)))?;
            y += BAR;
        }
        area.present()
    }
}

fn shown(length: f64) -> String {
    match length {
        length if length >= 100.0 => crate::data::thousands(length.round() as u64),
        length => format!("{length:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_they_should_be() {
        let bars = |lengths: &[f64]| lengths.iter().map(|&n| ("<x>".to_string(), n)).collect();
        let chart = Bars {
            title: "tokens".to_string(),
            groups: vec![
                ("A".to_string(), bars(&[50.0, f64::NAN])),
                ("B".to_string(), bars(&[200.0])),
            ],
        };
        let lines = ["on a machine".to_string(), "by <b4r>".to_string()];
        let svg = chart.to_svg(&lines).unwrap_or_else(|error| panic!("{error}"));
        assert!(svg.contains("on a machine") && svg.contains("by &lt;b4r&gt;"), "{svg}");
        assert!(svg.starts_with("<svg") && !svg.contains("<x>") && !svg.contains("NaN"), "{svg}");
        assert!(svg.contains("width=\"140\"") && svg.contains("width=\"560\""), "{svg}");
    }
}
