//! One self-contained HTML page: pictures, plots and tables with no outside file.

use super::plot::escape;
use base64::Engine as _;
use std::fmt::Write as _;

/// A page under construction.
#[derive(Debug)]
pub struct Report {
    body: String,
    title: String,
}

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#222;--paper:#fff;--soft:#555;--line:#ddd;--box:#f6f6f4}\
@media(prefers-color-scheme:dark){:root{--ink:#ddd;--paper:#181818;--soft:#aaa;--line:#444;--box:#242424}}\
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:var(--ink);\
background:var(--paper);overflow-wrap:anywhere}\
h1{font-size:1.7rem}h2{font-size:1.25rem;margin-top:2.2rem;border-bottom:1px solid var(--line)}\
img{max-width:100%;border:1px solid var(--line)}svg{max-width:100%;height:auto}svg text:not([fill]){fill:var(--ink)}\
figure{margin:1rem 0}figcaption{color:var(--soft);font-size:.9rem}\
.table{overflow-x:auto}table{border-collapse:collapse}\
td,th{padding:.2rem .8rem;border-bottom:1px solid var(--line);text-align:left;overflow-wrap:normal}\
pre{background:var(--box);padding:.8rem;overflow:auto;font-size:.85rem}summary{cursor:pointer}\
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(26rem,100%),1fr));gap:1rem}\
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(9rem,1fr));gap:.8rem}\
.tiles figure{margin:0}.tiles figcaption{font-size:.75rem}.tiles svg,.tiles img{width:100%}";

impl Report {
    /// A page with a title and a first paragraph.
    pub fn new(title: &str, lead: &str) -> Self {
        let body = format!("<h1>{}</h1><p>{}</p>", escape(title), escape(lead));
        Self { body, title: title.into() }
    }

    /// A heading.
    pub fn section(&mut self, title: &str) {
        let _ = write!(self.body, "<h2>{}</h2>", escape(title));
    }

    /// A paragraph.
    pub fn text(&mut self, text: &str) {
        let _ = write!(self.body, "<p>{}</p>", escape(text));
    }

    /// A PNG picture with a caption.
    pub fn picture(&mut self, png: &[u8], caption: &str) {
        let data = base64::engine::general_purpose::STANDARD.encode(png);
        let caption = escape(caption);
        let _ = write!(
            self.body,
            "<figure><img alt=\"{caption}\" src=\"data:image/png;base64,{data}\">\
             <figcaption>{caption}</figcaption></figure>"
        );
    }

    /// Figures side by side.
    pub fn side_by_side(&mut self, fill: impl FnOnce(&mut Self)) {
        self.within("<div class=\"pair\">", "</div>", fill);
    }

    /// Many small figures side by side.
    pub fn tiles(&mut self, fill: impl FnOnce(&mut Self)) {
        self.within("<div class=\"tiles\">", "</div>", fill);
    }

    /// What a reader may open under a line of text.
    pub fn folded(&mut self, title: &str, fill: impl FnOnce(&mut Self)) {
        let start = format!("<details><summary>{}</summary>", escape(title));
        self.within(&start, "</details>", fill);
    }

    fn within(&mut self, start: &str, end: &str, fill: impl FnOnce(&mut Self)) {
        self.body.push_str(start);
        fill(self);
        self.body.push_str(end);
    }

    /// An SVG plot with a caption.
    pub fn plot(&mut self, svg: &str, caption: &str) {
        let caption = escape(caption);
        let _ = write!(self.body, "<figure>{svg}<figcaption>{caption}</figcaption></figure>");
    }

    /// A table; the first row is its head.
    pub fn table(&mut self, rows: &[Vec<String>]) {
        self.body.push_str("<div class=\"table\"><table>");
        for (i, row) in rows.iter().enumerate() {
            let tag = if i == 0 { "th" } else { "td" };
            let cells: String =
                row.iter().map(|c| format!("<{tag}>{}</{tag}>", escape(c))).collect();
            let _ = write!(self.body, "<tr>{cells}</tr>");
        }
        self.body.push_str("</table></div>");
    }

    /// Text as it is, in a box: a configuration, a command.
    pub fn code(&mut self, text: &str) {
        let _ = write!(self.body, "<pre>{}</pre>", escape(text));
    }

    /// The page.
    pub fn html(&self) -> String {
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{}</title>\
             <style>{STYLE}</style></head><body>{}</body></html>\n",
            escape(&self.title),
            self.body
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_self_contained_and_escaped() {
        let mut r = Report::new("a < b", "x & y");
        r.picture(&[1, 2, 3], "\"quoted\"");
        r.table(&[vec!["k".into()], vec!["<v>".into()]]);
        let html = r.html();
        assert!(html.contains("a &lt; b") && html.contains("x &amp; y"));
        assert!(html.contains("data:image/png;base64,AQID"));
        assert!(html.contains("&lt;v&gt;") && !html.contains("http"));
    }
}
