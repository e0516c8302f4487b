// Reads examples from text: `input -> output`, two columns, or JSON lines.

const NAMES = [['inputs', 'targets'], ['input', 'output'], ['input', 'target']];

// Returns a list of {inputs, targets}; throws an Error that names the line.
export function parse(text) {
  const examples = [];
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (line.trim()) examples.push(example(line, index + 1));
  }
  return examples;
}

export function format(examples) {
  return examples.map(({inputs, targets}) => {
    const plain = `${inputs} -> ${targets}`;
    return isSame(plain, inputs, targets) ?
      plain : JSON.stringify({inputs, targets});
  }).join('\n');
}

function isSame(line, inputs, targets) {
  try {
    const [found, ...rest] = parse(line);
    return !rest.length && found.inputs === inputs && found.targets === targets;
  } catch {
    return false;
  }
}

function example(line, number) {
  const text = line.trim();
  let parts;
  if (text.startsWith('{')) {
    parts = fromJson(text, number);
  } else if (line.includes('\t')) {
    parts = line.split('\t');
  } else {
    const place = line.lastIndexOf('->');
    parts = place < 0 ? [] : [line.slice(0, place), line.slice(place + 2)];
  }
  if (parts.length < 2) {
    throw new Error(`Line ${number}: write input -> output.`);
  }
  const [inputs, targets] = parts.map(part => part.trim());
  if (!targets) throw new Error(`Line ${number}: has no output.`);
  return {inputs, targets};
}

function fromJson(text, number) {
  let row;
  try {
    row = JSON.parse(text);
  } catch {
    throw new Error(`Line ${number}: is no JSON.`);
  }
  for (const [input, output] of NAMES) {
    if (typeof row[input] === 'string' && typeof row[output] === 'string') {
      return [row[input], row[output]];
    }
  }
  throw new Error(`Line ${number}: needs the texts "inputs" and "targets".`);
}
