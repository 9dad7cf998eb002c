package report

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// browser is a Chromium without windows that is talked to over a pipe, in the DevTools protocol: JSON messages with an octet
// of zero behind each.
type browser struct {
	t       *testing.T
	to      *os.File
	session string

	mu      sync.Mutex
	next    int
	waiting map[int]chan message
	said    []string // on its console, and errors
	shows   string   // the URL of the page that it has come to
	loaded  chan string
}

type message struct {
	ID        int             `json:"id,omitempty"`
	Method    string          `json:"method,omitempty"`
	SessionID string          `json:"sessionId,omitempty"`
	Params    json.RawMessage `json:"params,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
	Error     json.RawMessage `json:"error,omitempty"`
}

const browserTime = 3 * time.Minute // for each answer

// openBrowser starts Chromium, which .ci/setup installs.
func openBrowser(t *testing.T) *browser {
	t.Helper()
	theirsIn, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	from, theirsOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	profile, err := os.MkdirTemp("", "chromium")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
		"--disable-background-networking", "--hide-scrollbars", "--remote-debugging-pipe", "--user-data-dir="+profile, "about:blank")
	cmd.ExtraFiles = []*os.File{theirsIn, theirsOut} // 3 and 4
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: the report is looked at in Chromium; .ci/setup installs it", err)
	}
	theirsIn.Close()
	theirsOut.Close()
	b := &browser{t: t, to: to, waiting: make(map[int]chan message), loaded: make(chan string, 16)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		b.read(from)
	}()
	t.Cleanup(func() {
		b.send("Browser.close", "", nil)
		done := make(chan struct{})
		go func() { cmd.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(browserTime):
			cmd.Process.Kill()
			<-done
		}
		to.Close()
		from.Close()
		<-read
		// Its helpers end a moment later, and may write until then.
		for late := time.Now().Add(browserTime); ; time.Sleep(100 * time.Millisecond) {
			if err := os.RemoveAll(profile); err == nil {
				break
			} else if time.Now().After(late) {
				t.Error(err)
				break
			}
		}
	})
	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		b.call(domain+".enable", nil, nil)
	}
	return b
}

func (b *browser) read(from *os.File) {
	r := bufio.NewReader(from)
	for {
		text, err := r.ReadBytes(0)
		if err != nil {
			return
		}
		var m message
		if json.Unmarshal(text[:len(text)-1], &m) != nil {
			continue
		}
		b.mu.Lock()
		switch {
		case m.ID != 0:
			if c := b.waiting[m.ID]; c != nil {
				delete(b.waiting, m.ID)
				c <- m
			}
		case m.Method == "Runtime.consoleAPICalled", m.Method == "Runtime.exceptionThrown", m.Method == "Log.entryAdded":
			b.said = append(b.said, string(m.Params))
		case m.Method == "Page.frameNavigated":
			var p struct{ Frame struct{ URL string } }
			_ = json.Unmarshal(m.Params, &p)
			b.shows = p.Frame.URL
		case m.Method == "Page.loadEventFired":
			select {
			case b.loaded <- b.shows:
			default:
			}
		}
		b.mu.Unlock()
	}
}

func (b *browser) send(method, session string, params any) chan message {
	p, err := json.Marshal(params)
	if params == nil {
		p = []byte("{}")
	}
	if err != nil {
		b.t.Fatal(err)
	}
	answer := make(chan message, 1)
	b.mu.Lock()
	b.next++
	id := b.next
	b.waiting[id] = answer
	b.mu.Unlock()
	text, err := json.Marshal(message{ID: id, Method: method, SessionID: session, Params: p})
	if err != nil {
		b.t.Fatal(err)
	}
	b.to.Write(append(text, 0)) // if it is gone no answer comes
	return answer
}

// call waits for the answer, and puts its result into to unless that is nil.
func (b *browser) call(method string, params, to any) {
	b.t.Helper()
	select {
	case m := <-b.send(method, b.session, params):
		if m.Error != nil {
			b.t.Fatalf("%s: %s", method, m.Error)
		}
		if to != nil {
			if err := json.Unmarshal(m.Result, to); err != nil {
				b.t.Fatalf("%s: %v", method, err)
			}
		}
	case <-time.After(browserTime):
		b.t.Fatalf("%s: no answer", method)
	}
}

// open shows a file, with scripts switched off.
func (b *browser) open(file string) {
	b.t.Helper()
	b.call("Emulation.setScriptExecutionDisabled", map[string]any{"value": true}, nil)
	url := "file://" + file
	b.call("Page.navigate", map[string]any{"url": url}, nil)
	for late := time.After(browserTime); ; {
		select {
		case which := <-b.loaded:
			if which == url { // not the empty page that was there before
				return
			}
		case <-late:
			b.t.Fatal("the page does not load")
		}
	}
}

// look sets medium, brightness and width.
func (b *browser) look(medium, scheme string, width int) {
	b.t.Helper()
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false}, nil)
	b.call("Emulation.setEmulatedMedia", map[string]any{"media": medium,
		"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
}

// eval returns the value of an expression.
func (b *browser) eval(expression string, to any) {
	b.t.Helper()
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true}, &r)
	if r.ExceptionDetails != nil {
		b.t.Fatalf("%s", r.ExceptionDetails)
	}
	if err := json.Unmarshal(r.Result.Value, to); err != nil {
		b.t.Fatalf("%v: %s", err, r.Result.Value)
	}
}

// screenshot is the whole page as PNG.
func (b *browser) screenshot() []byte {
	b.t.Helper()
	var r struct{ Data string }
	b.call("Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": true}, &r)
	return b.decode(r.Data)
}

// pdf is the page as it is printed.
func (b *browser) pdf() []byte {
	b.t.Helper()
	var r struct{ Data string }
	b.call("Page.printToPDF", map[string]any{"preferCSSPageSize": true, "printBackground": true}, &r)
	return b.decode(r.Data)
}

func (b *browser) decode(text string) []byte {
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		b.t.Fatal(err)
	}
	return data
}

func (b *browser) console() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.said...)
}
