/**
 * Compares declarations with the code, in both directions: `node compare.js <file.js>`, whose declarations are beside it.
 *
 * Owns names: exports, members of classes and objects, properties of the types that the code documents, events, and how
 * many arguments there are. Does not own the types of arguments (example.ts). Prints the differences, one a line.
 */

import { createRequire } from "node:module";
import { resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

import { fakeBrowser } from "../fakes.js";

const ts = createRequire(new URL("../../libraries/", import.meta.url))("typescript");
const root = fileURLToPath(new URL("../../../", import.meta.url));

const code = resolve(process.argv[2]);
const declarations = code.replace(/\.js$/, ".d.ts");
const program = ts.createProgram([code, declarations], {
  allowJs: true,
  noEmit: true,
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.ESNext,
  moduleResolution: ts.ModuleResolutionKind.Bundler,
  types: [],
  rootDirs: ["realtime/static", "notifications/static"].map((path) => root + path),
});
const checker = program.getTypeChecker();

/** A member → the numbers of arguments that it takes; "" if it is not a function. */
function membersOf(type) {
  const members = {};
  for (const member of checker.getPropertiesOfType(type)) {
    const [declaration] = member.declarations ?? [];
    const hidden = ts.ModifierFlags.Private | ts.ModifierFlags.Protected;
    if (declaration && ts.getCombinedModifierFlags(declaration) & hidden) continue;
    if (declaration?.name && ts.isPrivateIdentifier(declaration.name)) continue;
    members[member.name] = argumentsOf(checker.getTypeOfSymbol(member));
  }
  return members;
}

function argumentsOf(type) {
  const counts = type.getCallSignatures().map(({ parameters, minArgumentCount }) => [minArgumentCount, parameters.length]);
  if (counts.length === 0) return "";
  return `(${Math.min(...counts.map(([least]) => least))} to ${Math.max(...counts.map(([, most]) => most))} arguments)`;
}

/** Name → its members and arguments, for each export of a file. */
function exportsOf(path) {
  const exported = {};
  for (const symbol of checker.getExportsOfModule(checker.getSymbolAtLocation(program.getSourceFile(path)))) {
    const target = symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol;
    const isValue = Boolean(target.flags & ts.SymbolFlags.Value);
    const isClass = Boolean(target.flags & ts.SymbolFlags.Class);
    const type = isValue && !isClass ? checker.getTypeOfSymbol(target) : checker.getDeclaredTypeOfSymbol(target);
    const isUnion = type.isUnion() && type.types.every((part) => part.isStringLiteral());
    const members = isUnion ? Object.fromEntries(type.types.map(({ value }) => [value, ""])) : membersOf(type);
    exported[symbol.name] = { isValue, members, arguments: isValue ? argumentsOf(type) : "" };
  }
  return exported;
}

const [written, declared] = [exportsOf(code), exportsOf(declarations)];
const differences = [];
const compare = (what, inCode, inDeclarations) => {
  if (inCode === inDeclarations) return;
  if (inDeclarations === undefined) differences.push(`${what} is not declared`);
  else if (inCode === undefined) differences.push(`${what} is declared, and is not in the code`);
  else differences.push(`${what} is ${inDeclarations} in the declarations, ${inCode} in the code`);
};
for (const name of new Set([...Object.keys(written), ...Object.keys(declared)])) {
  const [one, other] = [written[name], declared[name]];
  // Types may be declared that the code has no name for.
  if (one || other.isValue) compare(name, one && kindOf(one), other && kindOf(other));
  if (!one || !other) continue;
  for (const member of new Set([...Object.keys(one.members), ...Object.keys(other.members)])) {
    compare(`${name}.${member}`, one.members[member], other.members[member]);
  }
}
if (written.connect) await compareEvents();
console.log(differences.join("\n"));

function kindOf({ isValue, arguments: counts }) {
  return isValue ? `a value ${counts}` : "a type";
}

/** Only the running code says which events there are. */
async function compareEvents() {
  const { connect } = await import(pathToFileURL(code).href);
  const connection = connect(fakeBrowser().options);
  const sources = {
    ConnectionEvents: connection,
    SubscriptionEvents: connection.subscribe("news"),
    LiveSubscriptionEvents: connection.subscribe("vehicles.*", { filter: {} }),
  };
  connection.close();
  for (const [name, source] of Object.entries(sources)) {
    let text = "";
    try {
      source.on("no such event", () => {});
    } catch (error) {
      text = error.message;
    }
    const emitted = text.replace(/^.*there are /, "").split(", ");
    const known = Object.keys(declared[name].members);
    for (const event of new Set([...emitted, ...known])) {
      compare(`${name}.${event}`, emitted.includes(event) ? "" : undefined, known.includes(event) ? "" : undefined);
    }
  }
}
