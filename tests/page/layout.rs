//! The page fits and can be read: on a phone and on a wall, light and dark, by mouse, keys and ear.

use serde_json::json;

use crate::{
    browser::{Browser, SIZES},
    support::{Device, Service},
};

/// Texts with too little contrast to what is behind them (WCAG 2.2, 1.4.3): 4.5, and 3 for large ones.
const FAINT: &str = r"(() => {
  const paint = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgb = color => { paint.clearRect(0, 0, 1, 1); paint.fillStyle = color; paint.fillRect(0, 0, 1, 1); return [...paint.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => { for (; element; element = element.parentElement) { const c = rgb(getComputedStyle(element).backgroundColor); if (c[3] === 255) return c; } };
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    const text = [...element.childNodes].filter(node => node.nodeType === 3).map(node => node.textContent.trim()).join('');
    const box = element.getBoundingClientRect();
    if (!text || box.width < 2 || element.closest('noscript')) continue;
    const style = getComputedStyle(element);
    const ink = element.namespaceURI.endsWith('svg') ? style.fill : style.color;
    const [a, b] = [light(rgb(ink)), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5)) found.push(`${text.slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return found;
})()";

/// Texts that are cut off or run into each other sideways.
const CUT: &str = r"[...document.querySelectorAll('main .figure, main .note, .list li, .legend button, th, td')]
  .filter(element => element.offsetParent && (element.scrollWidth > element.clientWidth + 1 || element.getBoundingClientRect().right > innerWidth + 1))
  .map(element => `${element.className}: ${element.textContent.trim().slice(0, 40)}`)";

#[test]
fn it_fits_and_has_contrast_at_every_size_in_light_and_dark() {
    let service = Service::start();
    let backend = service.backend();
    backend.add_device("box", "secret");
    let device = Device::online(&service, "box", "secret");
    backend.push("box", &json!("電視"));
    device.expect_event();
    let mut browser = Browser::open(&format!("http://{}/", service.admin));
    browser.until_live();
    browser.until("!document.getElementById('day-table').hidden");
    browser.eval("document.querySelector('details').open = true");
    for (name, width, height) in [
        SIZES[0],
        SIZES[1],
        SIZES[2],
        ("narrow", 360, 740),
        ("tablet", 820, 1180),
        ("short", 740, 360),
    ] {
        browser.size(width, height);
        for scheme in ["light", "dark"] {
            browser.scheme(scheme);
            let wide = browser.eval("document.scrollingElement.scrollWidth");
            assert_eq!(wide, width, "{name}, {scheme}: it scrolls sideways");
            assert_eq!(browser.eval(FAINT), json!([]), "{name}, {scheme}");
            assert_eq!(browser.eval(CUT), json!([]), "{name}, {scheme}");
        }
    }
}

#[test]
fn everything_has_a_name_and_can_be_reached_by_key() {
    let service = Service::start();
    let mut browser = Browser::open(&format!("http://{}/", service.admin));
    browser.until_live();
    let nameless = r"[...document.querySelectorAll('button, input, [tabindex], section, fieldset, table, a')].filter(element =>
        !(element.getAttribute('aria-label') || element.getAttribute('aria-labelledby') || element.labels?.length
          || element.querySelector('legend, thead th') || element.textContent.trim())).map(element => element.outerHTML)";
    assert_eq!(browser.eval(nameless), json!([]));
    let twice = "[...document.querySelectorAll('[id]')].map(element => element.id).filter((id, at, all) => all.indexOf(id) !== at)";
    assert_eq!(browser.eval(twice), json!([]));

    // One step of the key after the other, until it comes round: each thing that acts is met.
    let mut met = Vec::new();
    for _ in 0..40 {
        browser.key("Tab");
        let at = browser.eval("(e => e.closest('fieldset')?.id || e.id || e.getAttribute('href') || e.closest('.plot')?.getAttribute('aria-label') || e.tagName)(document.activeElement)");
        met.push(at.as_str().unwrap().to_owned());
    }
    for wanted in [
        "theme",
        "baseline",
        "period",
        "Polls",
        "Events",
        "Delivery latency",
        "Sessions",
        "/metrics",
    ] {
        assert!(met.iter().any(|name| name == wanted), "{wanted} cannot be reached: {met:?}");
    }
    let outline = "(() => { const e = document.querySelector('#theme'); e.focus({ focusVisible: true }); return getComputedStyle(e).outlineStyle })()";
    assert_eq!(browser.eval(outline), "solid", "the focus is seen");
}
