// The JSON interface of the server.

export async function getJson(path) {
  return (await checked(await reached(path))).json();
}

export async function post(path, body, signal) {
  return checked(await reached(path, {
    method: 'POST',
    headers: {'Content-Type': 'application/json'},
    body: JSON.stringify(body),
    signal,
  }));
}

export async function file(path) {
  return (await checked(await reached(path))).blob();
}

// Calls onText(answer so far), and returns what the answer took.
export async function stream(body, onText, signal) {
  const response = await post('/answer', {...body, stream: true}, signal);
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = '';
  let last;
  for (;;) {
    const {value, done} = await reader.read();
    rest += decoder.decode(value, {stream: !done});
    const lines = rest.split('\n');
    rest = lines.pop();
    for (const line of lines) {
      last = JSON.parse(line);
      if (last.error) throw new Error(last.error);
      if ('query' in last) onText(last.text);
    }
    if (done) break;
  }
  if (!last?.answers) throw new Error('The answer was cut short.');
  onText(last.answers[0]);
  return last;
}

async function reached(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Error('The server cannot be reached; is it still running?');
  }
}

async function checked(response) {
  if (response.ok) return response;
  let message = `The server answered with ${response.status}.`;
  try {
    message = (await response.json()).error ?? message;
  } catch {
    // No JSON: the status has to do.
  }
  throw new Error(message);
}
