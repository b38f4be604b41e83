"use strict";
// Elements. Text from files becomes text nodes only: names and reasons are never read as HTML.

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child != null && child !== false));
  return node;
}

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const byId = (id) => document.getElementById(id);
const embedded = (id) => JSON.parse(byId(id).textContent);
const present = (value) => value !== null && value !== undefined;
const isDark = window.matchMedia("(prefers-color-scheme: dark)");

function number(value, digits = 2) {
  return present(value) ? Number(value).toFixed(digits).replace("-", "\u2212") : "\u2013";
}

function plural(count, one, many = one + "s") {
  return `${count} ${count === 1 ? one : many}`;
}
