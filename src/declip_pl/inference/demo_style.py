"""How the page of ``declip-pl demo`` looks, and what the browser does without asking the server."""

INTO_VIEW = """() => {
  const score = document.getElementById("score");
  if (score.getBoundingClientRect().bottom > innerHeight) score.scrollIntoView();
}"""
"""On a phone the score stands below everything that was chosen."""

ON_LOAD = """() => {
  document.documentElement.lang = "en-GB";
  document.getElementById("status").setAttribute("role", "status");
  const name = () => document.querySelectorAll(".pictures button:has(img)").forEach(
    button => button.setAttribute("aria-label", button.querySelector("img").alt));
  new MutationObserver(name).observe(document.body, {childList: true, subtree: true});
  name();
}"""
"""What is written into the status is then read out by screen readers, and so are the names of
pictures to choose from, which Gradio calls *Thumbnail 1 of 6*."""

WIPE = """share => {
  document.documentElement.style.setProperty("--wipe", share + "%");
}"""

ZOOM = """times => {
  document.documentElement.style.setProperty("--zoom", times);
}"""

CSS = """
.gradio-container { --block-title-text-color: var(--body-text-color);
  --block-label-text-color: var(--body-text-color);
  --block-info-text-color: var(--body-text-color); }
.score { font-size: 2rem; font-weight: 600; }
.prose .name { font-size: 1.2rem; margin: 0; overflow-wrap: anywhere; }
.problem { border-left: .3rem solid #dc2626; padding: .25rem .75rem; overflow-wrap: anywhere; }
.unmarked { border-left: .3rem solid #2563eb; padding-left: .75rem; }
.prose .regions { width: 100%; }
.prose .regions caption { text-align: left; }
.prose .regions, .prose .regions * { border: 0; }
.prose .regions :is(th, td) { padding: .25rem; text-align: right;
  border-bottom: 1px solid var(--border-color-primary); }
#progress:not(:has(progress)), #problem:not(:has(p)) { display: none; }
.pictures .grid-container { grid-template-columns: repeat(auto-fill, minmax(5rem, 1fr)); }
#looks .grid-container { grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); }
.pictures, .pictures .grid-wrap { height: auto !important; min-height: 0 !important; }
.model input { padding-right: 1.5rem; text-overflow: ellipsis; }
.prose figure { margin: 0; }
.prose figure img { margin: 0; max-width: none; }
.prose figcaption { margin: .25rem 0 0; font-size: .9rem; }
.stage .window { overflow: auto; max-height: 75vh; }
.stage .pair { position: relative; margin: 0 auto;
  width: calc(min(100%, 70vh * var(--ratio)) * var(--zoom, 1)); aspect-ratio: var(--ratio); }
.stage img { position: absolute; inset: 0; width: 100%; height: 100%; }
.stage .over { clip-path: inset(0 0 0 var(--wipe, 50%)); }
.stage .pair::after { content: ""; position: absolute; inset: 0 auto 0 var(--wipe, 50%);
  width: 2px; margin-left: -1px; background: #fff; outline: 1px solid #000; }
.figures { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(14rem, 100%), 1fr)); }
.figures img { width: 100%; max-height: 70vh; object-fit: contain; }
.tiles progress { width: 100%; }
:is(input:not([type=radio]), button, a, [tabindex]):focus-visible,
label:has(input[type=radio]:focus-visible)
  { outline: 3px solid #2563eb !important; outline-offset: 2px; }
"""
