/**
 * Makes a part of the page equal to new HTML, by changing as little as possible: elements that stay keep the focus,
 * their scroll position and the selection in them.
 *
 * Owns the comparison. Does not own where the HTML comes from.
 */

/**
 * @param {Element} old In the page.
 * @param {Element} fresh With the new content. Its nodes may be moved into the page, so do not use it afterwards.
 */
export function morph(old, fresh) {
  const focused = document.activeElement;
  morphChildren(old, fresh);
  // An element that was moved has lost the focus.
  if (focused !== document.activeElement && old.contains(focused)) focused.focus({ preventScroll: true });
}

function morphChildren(old, fresh) {
  let place = filled(old.firstChild);
  for (const wanted of [...fresh.childNodes].filter((node) => !isBlank(node))) {
    const match = findMatch(place, wanted);
    if (match === null) {
      old.insertBefore(wanted, place);
      continue;
    }
    if (match === place) place = filled(match.nextSibling);
    else old.insertBefore(match, place);
    morphNode(match, wanted);
  }
  while (place !== null) {
    const next = filled(place.nextSibling);
    place.remove();
    place = next;
  }
}

/** The first node from this one on that is not blank. Blanks do not count, because the parser leaves some of them out. */
function filled(node) {
  while (node !== null && isBlank(node)) node = node.nextSibling;
  return node;
}

function isBlank(node) {
  return node.nodeType === Node.TEXT_NODE && node.data.trim() === "";
}

/** The node at or after `place` that becomes `wanted`; null if it has to be inserted. */
function findMatch(place, wanted) {
  const key = keyOf(wanted);
  if (key === undefined) return place !== null && isAlike(place, wanted) ? place : null;
  for (let node = place; node !== null; node = node.nextSibling) if (keyOf(node) === key && isAlike(node, wanted)) return node;
  return null;
}

function isAlike(node, wanted) {
  return node.nodeName === wanted.nodeName && keyOf(node) === keyOf(wanted) && node.id === wanted.id;
}

function keyOf(node) {
  return node.dataset?.key;
}

function morphNode(node, wanted) {
  if (node.isEqualNode(wanted)) return;
  if (node.nodeType !== Node.ELEMENT_NODE) {
    node.data = wanted.data;
    return;
  }
  for (const { name } of [...node.attributes]) {
    // An element that the reader has opened stays open.
    if (!wanted.hasAttribute(name) && name !== "open") node.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  morphChildren(node, wanted);
}
