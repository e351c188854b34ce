// Elements, and how a view is brought up to date without losing focus, selection or scroll.

const SVG = 'http://www.w3.org/2000/svg'
const svgTags = new Set(['svg', 'path', 'rect', 'circle', 'line', 'g', 'text', 'title'])

// h makes an element. Attributes that are false, null or undefined are left out. Children may be nested lists.
export function h(tag, attrs, ...children) {
  const e = svgTags.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag)
  for (const [k, v] of Object.entries(attrs ?? {})) {
    if (v === false || v == null) continue
    if (k === 'style') {
      // The policy of the page forbids the attribute, not the property.
      for (const [name, value] of Object.entries(v)) e.style.setProperty(name, value)
    } else if (k === 'value') {
      e.value = v
      e.setAttribute('value', v)
    } else {
      e.setAttribute(k, v === true ? '' : v)
    }
  }
  add(e, children)
  return e
}

function add(e, children) {
  for (const c of children) {
    if (c === false || c == null || c === '') continue
    if (Array.isArray(c)) add(e, c)
    else e.append(c instanceof Node ? c : String(c))
  }
}

// morph makes the children of old those of next, and keeps the elements that stay. Elements with data-key are found by
// it. The children of an element with data-own belong to somebody else, and so does what a user types.
export function morph(old, next) {
  const keyed = new Map()
  for (const c of old.children) if (c.dataset?.key) keyed.set(c.dataset.key, c)
  let at = old.firstChild
  for (const want of [...next.childNodes]) {
    const key = want.dataset?.key
    let have = key ? keyed.get(key) : at
    if (have && !key && have.dataset?.key) have = null
    if (!have || have.nodeType !== want.nodeType || have.nodeName !== want.nodeName) {
      old.insertBefore(settle(want), at)
      continue
    }
    if (have !== at) old.insertBefore(have, at)
    else at = at.nextSibling
    keyed.delete(key)
    update(have, want)
  }
  while (at) {
    const gone = at
    at = at.nextSibling
    gone.remove()
  }
}

// own stands for an element that is drawn by its owner and stays the same: it is not taken from the page to be put
// there again, which would take the focus.
export function own(e) {
  if (!e.isConnected) return e
  const stand = e.cloneNode(false)
  stand.real = e
  return stand
}

// settle puts the elements themselves in the place of those that stand for them.
function settle(e) {
  if (e.real) return e.real
  if (e.querySelectorAll) for (const x of e.querySelectorAll('[data-own]')) if (x.real) x.replaceWith(x.real)
  return e
}

function update(have, want) {
  if (have.nodeType === Node.TEXT_NODE) {
    if (have.data !== want.data) have.data = want.data
    return
  }
  for (const { name } of [...have.attributes]) {
    // A browser, or the owner of the element, sets these.
    if (!want.hasAttribute(name) && name !== 'open' && name !== 'style') have.removeAttribute(name)
  }
  for (const { name, value } of want.attributes) {
    if (name !== 'style' && have.getAttribute(name) !== value) have.setAttribute(name, value)
  }
  if (have.hasAttribute('data-own')) return
  if (have.style.cssText !== want.style.cssText) have.style.cssText = want.style.cssText
  if (have instanceof HTMLInputElement || have instanceof HTMLTextAreaElement) return
  if (have instanceof HTMLSelectElement && document.activeElement === have) return
  const chosen = want.value
  morph(have, want)
  if (have instanceof HTMLSelectElement) have.value = chosen
}

const actions = new Map()

// on registers what a click on an element with data-act does.
export function on(name, fn) {
  actions.set(name, fn)
}

for (const type of ['click', 'change', 'submit', 'input']) {
  document.addEventListener(type, (event) => {
    const e = event.target.closest?.('[data-act]')
    if (!e || (e.dataset.on ?? 'click') !== type) return
    if (type === 'submit') event.preventDefault()
    actions.get(e.dataset.act)?.(e, event)
  })
}

// toast shows a message for a while.
export function toast(text, level = 'good') {
  const e = h('div', { class: `toast ${level}`, role: level === 'bad' ? 'alert' : 'status' }, text,
    h('button', { class: 'plain', 'aria-label': 'Close the message', 'data-act': 'close-toast' }, '×'))
  document.getElementById('toasts').append(e)
  setTimeout(() => e.remove(), level === 'bad' ? 15000 : 5000)
}
on('close-toast', (e) => e.parentElement.remove())

// confirm asks before something that cannot be undone.
export function confirm({ title, text, yes, danger }) {
  const d = document.getElementById('dialog')
  d.replaceChildren(h('form', { method: 'dialog' },
    h('h2', { id: 'dialog-title' }, title), [].concat(text).map((t) => h('p', {}, t)),
    h('div', { class: 'row end' },
      h('button', { value: 'no', class: 'button' }, 'No, go back'),
      h('button', { value: 'yes', class: `button ${danger ? 'danger' : 'primary'}`, id: 'dialog-yes' }, yes))))
  d.returnValue = 'no'
  d.showModal()
  return new Promise((resolve) => {
    d.addEventListener('close', () => resolve(d.returnValue === 'yes'), { once: true })
  })
}
