package integration

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"innertun/integration/decode"
	"innertun/integration/netlab"
	"innertun/integration/tshark"
)

// capturing is a running `innertun capture`.
type capturing struct {
	*netlab.Process
	file string
}

func startCapture(t *testing.T, d *daemon, flags ...string) *capturing {
	t.Helper()
	dir := t.TempDir()
	c := &capturing{file: filepath.Join(dir, "own.pcapng")}
	args := append([]string{innertunBinary(t), "capture", "-w", c.file, "--control", d.control}, flags...)
	c.Process = d.host.Start(t, dir, "capture", args...)
	t.Cleanup(func() {
		if t.Failed() {
			netlab.Keep(t, c.file)
		}
	})
	netlab.WaitFor(t, netlab.Patience, "the capture to begin", func() error {
		if c.Exited() {
			t.Fatalf("innertun capture ended: %s", c.Log())
		}
		if !strings.Contains(c.Log(), "capturing to") {
			return fmt.Errorf("log: %s", c.Log())
		}
		return nil
	})
	return c
}

var captured = regexp.MustCompile(`(\d+) packets(?:, (\d+) lines of keys)?; (\d+) dropped`)

// end ends the capture and returns how many packets, lines of keys and drops it tells of.
func (c *capturing) end(t *testing.T) (packets, keys, dropped int) {
	t.Helper()
	if code, err := c.Stop(); code != 0 || err != nil {
		t.Fatalf("innertun capture on SIGINT: status %d, %v: %s", code, err, c.Log())
	}
	return c.told(t)
}

func (c *capturing) told(t *testing.T) (packets, keys, dropped int) {
	t.Helper()
	m := captured.FindStringSubmatch(c.Log())
	if m == nil {
		t.Fatalf("innertun capture tells no numbers: %s", c.Log())
	}
	for i, to := range []*int{&packets, &keys, &dropped} {
		*to, _ = strconv.Atoi(m[i+1])
	}
	return packets, keys, dropped
}

// dissected is what tshark shows of one connection of a capture. Where there is Inner Space, the data is the payload of its
// units.
type dissected struct {
	tep, cipher, sessionID string
	resumed                string
	init1, init2           int
	frames, rekeys         int
	undecrypted            int
	dataA, dataB           []byte
	finA, finB             bool
	experts                []string
}

func dissect(t *testing.T, file, keylog, port, data string, twoPass bool) (d dissected) {
	t.Helper()
	o := tshark.Options{KeyLog: keylog, TwoPass: twoPass, Preferences: []string{"innertun.decrypt_limit:100000"}, Filter: "tcp.port == " + port}
	hosts := map[string]*[]byte{"0": &d.dataA, "1": &d.dataB}
	ends := map[string]*bool{"0": &d.finA, "1": &d.finB}
	same := func(to *string, p tshark.Packet, field string) {
		for _, v := range p[field] {
			if *to != "" && *to != v {
				t.Errorf("packet %s: %s is %s, was %s", p.One("frame.number"), field, v, *to)
			}
			*to = v
		}
	}
	inits := make(map[string]bool)
	for _, p := range o.Fields(t, file, "tcp.srcport", "tcp.seq_raw", "tcpcrypt.host", "tcpcrypt.tep", "tcpcrypt.cipher", "tcpcrypt.session_id", "tcpcrypt.resumed",
		"tcpcrypt.init", "tcpcrypt.frame", "tcpcrypt.frame.rekey", "tcpcrypt.decrypted", data, "tcpcrypt.flags.fin",
		"tcpcrypt.error", "tcpcrypt.warning", "tcpcrypt.unauthentic", "tcpcrypt.reserved", "innertun.eno.malformed", "innertun.eno.odd") {
		same(&d.tep, p, "tcpcrypt.tep")
		same(&d.cipher, p, "tcpcrypt.cipher")
		same(&d.sessionID, p, "tcpcrypt.session_id")
		same(&d.resumed, p, "tcpcrypt.resumed")
		for _, v := range p["tcpcrypt.init"] {
			at := p.One("tcp.srcport") + " " + p.One("tcp.seq_raw")
			if inits[at] {
				continue // a SYN-U or SYN-ACK-U once more
			}
			inits[at] = true
			switch v {
			case "1":
				d.init1++
			case "2":
				d.init2++
			}
		}
		d.frames += len(p["tcpcrypt.frame"])
		d.rekeys += count(p["tcpcrypt.frame.rekey"], "1")
		d.undecrypted += count(p["tcpcrypt.decrypted"], "0")
		for _, v := range p[data] {
			b, err := hex.DecodeString(v)
			if to := hosts[p.One("tcpcrypt.host")]; to != nil && err == nil {
				*to = append(*to, b...)
			} else {
				t.Errorf("packet %s: host %q, data: %v", p.One("frame.number"), p.One("tcpcrypt.host"), err)
			}
		}
		if count(p["tcpcrypt.flags.fin"], "1") > 0 {
			*ends[p.One("tcpcrypt.host")] = true
		}
		for _, x := range []string{"tcpcrypt.error", "tcpcrypt.warning", "tcpcrypt.unauthentic", "tcpcrypt.reserved", "innertun.eno.malformed", "innertun.eno.odd"} {
			if p[x] != nil {
				d.experts = append(d.experts, fmt.Sprintf("packet %s: %s", p.One("frame.number"), x))
			}
		}
	}
	return d
}

func count(all []string, what string) (n int) {
	for _, v := range all {
		if v == what {
			n++
		}
	}
	return n
}

var (
	tepCodes    = map[string]string{"curve25519": "0x23", "curve448": "0x24", "p256": "0x21", "p521": "0x22"}
	cipherCodes = map[string]string{"aes-128-gcm": "0x0001", "aes-256-gcm": "0x0002", "chacha20-poly1305": "0x0010"}
)

// check compares what tshark shows with what the daemon and the independent decoder say.
func (d dissected) check(t *testing.T, r record, s *decode.Session) {
	t.Helper()
	if d.tep != tepCodes[r.TEP] || d.cipher != cipherCodes[r.Cipher] || d.sessionID != r.SessionID || d.resumed != "0" {
		t.Errorf("tshark: TEP %s, cipher %s, session %s, resumed %s; conns: %+v", d.tep, d.cipher, d.sessionID, d.resumed, r)
	}
	if d.init1 != 1 || d.init2 != 1 {
		t.Errorf("%d Init1 and %d Init2", d.init1, d.init2)
	}
	if int64(len(d.dataA)) != r.BytesOut || int64(len(d.dataB)) != r.BytesIn {
		t.Errorf("tshark: %d and %d octets of data; conns: %d and %d", len(d.dataA), len(d.dataB), r.BytesOut, r.BytesIn)
	}
	if !bytes.Equal(d.dataA, s.AtoB.Data) || !bytes.Equal(d.dataB, s.BtoA.Data) {
		t.Error("tshark and the decoder do not decrypt to the same data")
	}
	if d.frames != s.AtoB.Frames+s.BtoA.Frames || d.rekeys != s.AtoB.Rekeys+s.BtoA.Rekeys {
		t.Errorf("tshark: %d frames, %d rekeys; decoder: %d+%d, %d+%d", d.frames, d.rekeys, s.AtoB.Frames, s.BtoA.Frames, s.AtoB.Rekeys, s.BtoA.Rekeys)
	}
	if r.Rekeys != max(s.AtoB.Rekeys, s.BtoA.Rekeys) {
		t.Errorf("conns: %d rekeys; decoder: %d and %d", r.Rekeys, s.AtoB.Rekeys, s.BtoA.Rekeys)
	}
	if d.undecrypted != 0 || !d.finA || !d.finB || len(d.experts) > 0 {
		t.Errorf("%d frames not decrypted, FINp %v and %v; %q", d.undecrypted, d.finA, d.finB, d.experts)
	}
}

// TestWireshark captures one transfer for each TEP and cipher, both with tcpdump on the router and with `innertun
// capture`, and compares what the dissector shows of either with what the daemon and the decoder say.
func TestWireshark(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	web := lab.Server.StartNginx(t, 600_000, "127.0.0.1:8080")
	startServe(t, lab.Server, "80", "127.0.0.1:8080")
	ciphers := []string{"aes-128-gcm", "aes-256-gcm", "chacha20-poly1305", "aes-128-gcm"}
	for i, tep := range []string{"curve25519", "curve448", "p256", "p521"} {
		t.Run(tep, func(t *testing.T) {
			f := families()[i%2]
			client := startRun(t, lab.Client, clientConfig+fmt.Sprintf(
				"[tcpinc]\nteps = [%q]\nciphers = [%q]\nrekey = { bytes = \"64KiB\" }\ninner_space = \"off\"\n", tep, ciphers[i]))
			theirs := lab.Capture(t, "c0", 0, "tcp")
			own := startCapture(t, client, "--keys")
			fetch(t, lab, nil, "http://"+f.at(80)+"/file", web.SHA256)
			client.waitIdle(t)
			packets, lines, dropped := own.end(t)
			if packets == 0 || lines < 2 || dropped != 0 {
				t.Errorf("capture: %d packets, %d lines of keys, %d dropped", packets, lines, dropped)
			}
			keys := own.file + ".keys"
			for _, name := range []string{own.file, keys} {
				if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("%s: %v, %v", name, info, err)
				}
			}
			if a, b := readFile(t, keys), readFile(t, client.keylog); a != b {
				t.Errorf("keys beside the capture:\n%skey log:\n%s", a, b)
			}
			r := client.newest(t, to(f.at(80)))
			if r.Rekeys == 0 {
				t.Errorf("no rekey to see: %+v", r)
			}
			for name, file := range map[string]string{"tcpdump": theirs.Stop(), "capture": own.file} {
				segs, err := decode.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				s := decrypt(t, segs, client, f)
				t.Log(name)
				dissect(t, file, keys, portOf(r.Local), "tcpcrypt.data", name == "capture").check(t, r, s)
			}
		})
	}
}

func portOf(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

// TestWiresharkInnerSpace has a connection with the mark and one with upgraded SYNs, for each TEP.
func TestWiresharkInnerSpace(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	web := lab.Server.StartNginx(t, 200_000, "127.0.0.1:8080")
	startServe(t, lab.Server, "80", "127.0.0.1:8080")
	for i, tep := range []string{"curve25519", "curve448", "p256", "p521"} {
		t.Run(tep, func(t *testing.T) {
			f := families()[i%2]
			client := startRun(t, lab.Client, clientConfig+fmt.Sprintf("[tcpinc]\nteps = [%q]\nresume = false\nrekey = { bytes = \"64KiB\" }\n", tep))
			capture := lab.Capture(t, "c0", 0, "tcp")
			var records []record
			for range 2 {
				fetch(t, lab, nil, "http://"+f.at(80)+"/file", web.SHA256)
				client.waitIdle(t)
				records = append(records, client.newest(t, to(f.at(80))))
			}
			file := capture.Stop()
			segs, err := decode.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			all := sessions(t, segs, client)
			if len(all) != 2 || all[0].Negotiation.UpgradedA != nil || !all[0].Negotiation.Marked || all[1].Negotiation.UpgradedB == nil {
				t.Fatalf("%d connections", len(all))
			}
			for i, s := range all {
				if !s.InnerSpace || !records[i].InnerSpace {
					t.Errorf("connection %d: %+v", i, records[i])
				}
				dissect(t, file, client.keylog, portOf(records[i].Local), "innertun.is.payload", i == 0).check(t, records[i], s)
			}
			if x := senders(t, tshark.Options{Filter: "innertun.syn"}, file, "innertun.syn"); !slices.Equal(x, []string{portOf(records[1].Local), "80"}) {
				t.Errorf("upgraded segments from ports %q", x)
			}
		})
	}
}

// senders returns the ports that packets with a field came from, each once however often they were repeated, in the order
// of the packets.
func senders(t *testing.T, o tshark.Options, file, field string) (ports []string) {
	t.Helper()
	for _, p := range o.Fields(t, file, field, "tcp.srcport") {
		if port := p.One("tcp.srcport"); p[field] != nil && !slices.Contains(ports, port) {
			ports = append(ports, port)
		}
	}
	return ports
}

// TestWiresharkResumed has a session resumed: no Init messages, and frames from offset 0.
func TestWiresharkResumed(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	web := lab.Server.StartNginx(t, 50_000, "127.0.0.1:8080")
	startServe(t, lab.Server, "80", "127.0.0.1:8080")
	client := startRun(t, lab.Client, clientConfig+"[tcpinc]\ninner_space = \"off\"\n")
	own := startCapture(t, client, "--keys")
	const address = "198.18.2.2:80"
	var fresh, resumed record
	for _, r := range []*record{&fresh, &resumed} {
		fetch(t, lab, nil, "http://"+address+"/file", web.SHA256)
		client.waitIdle(t)
		*r = client.newest(t, to(address))
	}
	own.end(t)
	if fresh.Resumed || !resumed.Resumed {
		t.Fatalf("records: %+v\n%+v", fresh, resumed)
	}
	for want, r := range map[string]record{"0": fresh, "1": resumed} {
		_, port, _ := strings.Cut(r.Local, ":")
		o := tshark.Options{KeyLog: own.file + ".keys", Filter: "tcp.port == " + port}
		set := func(field string) string {
			v := o.Values(t, own.file, field)
			slices.Sort(v)
			return strings.Join(slices.Compact(v), " ")
		}
		inits := map[string]string{"0": "1 2", "1": ""}[want]
		if set("tcpcrypt.resumed") != want || set("tcpcrypt.init") != inits || set("tcpcrypt.session_id") != r.SessionID || set("tcpcrypt.decrypted") != "1" {
			t.Errorf("resumed %q, Init messages %q, session %q, decrypted %q; conns: %+v", set("tcpcrypt.resumed"), set("tcpcrypt.init"),
				set("tcpcrypt.session_id"), set("tcpcrypt.decrypted"), r)
		}
		named := map[string][]string{"1": {port, "80"}}[want]
		if from := senders(t, o, own.file, "innertun.eno.resume.id"); !slices.Equal(from, named) {
			t.Errorf("resumed %s: identifiers from ports %q", want, from)
		}
		octets := int64(0)
		for _, v := range o.Values(t, own.file, "tcpcrypt.data.len") {
			n, _ := strconv.ParseInt(v, 10, 64)
			octets += n
		}
		if octets != r.BytesIn+r.BytesOut {
			t.Errorf("resumed %s: %d octets of data, conns: %d and %d", want, octets, r.BytesIn, r.BytesOut)
		}
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestWiresharkWithoutKeys shows structure where there are no keys, or wrong ones.
func TestWiresharkWithoutKeys(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	web := lab.Server.StartNginx(t, 100_000, "127.0.0.1:8080", "198.18.2.2:8081")
	startServe(t, lab.Server, "80", "127.0.0.1:8080")
	client := startRun(t, lab.Client, clientConfig)
	own := startCapture(t, client)
	fetch(t, lab, nil, "http://198.18.2.2:80/file", web.SHA256)
	fetch(t, lab, nil, "http://198.18.2.2:8081/file", web.SHA256) // a server that knows nothing of it
	client.waitIdle(t)
	own.end(t)
	if _, err := os.Stat(own.file + ".keys"); !os.IsNotExist(err) {
		t.Errorf("keys nobody asked for: %v", err)
	}
	d := dissect(t, own.file, "", "80", "tcpcrypt.data", false)
	if d.frames == 0 || d.undecrypted != d.frames || len(d.dataA)+len(d.dataB) != 0 || d.tep != "0x23" || d.cipher != "0x0001" || len(d.experts) > 0 {
		t.Errorf("%+v", d)
	}
	// The plain connection to the ordinary server is Wireshark's own business.
	if got := (tshark.Options{Filter: "tcp.port == 8081"}).Values(t, own.file, "http.response.code"); !slices.Equal(got, []string{"200"}) {
		t.Errorf("HTTP responses in plain: %q", got)
	}
	if got := (tshark.Options{Filter: "tcp.port == 80"}).Values(t, own.file, "http"); len(got) > 0 {
		t.Errorf("ciphertext was taken for HTTP: %q", got)
	}

	log := readFile(t, client.keylog)
	fields := strings.Fields(log)
	flipped := []byte(fields[3])
	flipped[0] ^= 1 // "0" to "1", "a" to "`": not all are digits
	if !strings.ContainsRune("0123456789abcdef", rune(flipped[0])) {
		flipped[0] = '0'
	}
	wrong := filepath.Join(t.TempDir(), "wrong")
	if err := os.WriteFile(wrong, []byte(strings.Replace(log, fields[3], string(flipped), 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if d := dissect(t, own.file, wrong, "80", "tcpcrypt.data", false); len(d.dataA) != 0 {
		t.Errorf("decrypted with a wrong key: %d octets", len(d.dataA))
	}
}

// TestCapture ends captures in all ways, and compares with tcpdump.
func TestCapture(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	web := lab.Server.StartNginx(t, 8<<20, "127.0.0.1:8080")
	startServe(t, lab.Server, "80", "127.0.0.1:8080")
	client := startRun(t, lab.Client, clientConfig)
	f := families()[0]
	load := func() { fetch(t, lab, nil, "http://"+f.at(80)+"/file", web.SHA256) }

	t.Run("like tcpdump", func(t *testing.T) {
		theirs := lab.Capture(t, "c0", 0, "tcp")
		own := startCapture(t, client)
		load()
		client.waitIdle(t)
		packets, _, dropped := own.end(t)
		if dropped != 0 {
			t.Errorf("%d of %d packets dropped", dropped, packets)
		}
		segs, err := decode.ReadFile(own.file)
		if err != nil {
			t.Fatal(err)
		}
		mine, others := decrypt(t, segs, client, f), decrypt(t, readCapture(t, theirs), client, f)
		if !bytes.Equal(mine.StreamAB.Data, others.StreamAB.Data) || !bytes.Equal(mine.StreamBA.Data, others.StreamBA.Data) {
			t.Error("the streams differ from those of tcpdump")
		}
		info := lab.Client.MustRun(t, "capinfos", "-M", own.file)
		for _, want := range []string{fmt.Sprintf(`Number of packets: +%d\n`, packets), `File type: +pcapng`,
			`File encapsulation: +ether`, `Capture application: +innertun `, `Name = eth0`, `Number of stat entries = 1`} {
			if !regexp.MustCompile(want).MatchString(info) {
				t.Errorf("capinfos has no %q:\n%s", want, info)
			}
		}
		// Super-packets and checksums are told about, and the directions are there.
		comments := (tshark.Options{Filter: "frame.comment"}).Values(t, own.file, "frame.comment")
		if !slices.ContainsFunc(comments, func(c string) bool { return strings.HasPrefix(c, "TCP super-packet, segments of 14") }) {
			t.Errorf("no word of super-packets in %d comments: %.300q", len(comments), comments)
		}
		for dir, filter := range map[string]string{"2": "ip.src == 198.18.1.2", "1": "ip.dst == 198.18.1.2"} {
			got := (tshark.Options{Filter: filter}).Values(t, own.file, "frame.packet_flags_direction")
			if len(got) == 0 || slices.ContainsFunc(got, func(v string) bool {
				n, err := strconv.ParseInt(v, 0, 32)
				return err != nil || strconv.FormatInt(n, 10) != dir
			}) {
				t.Errorf("%s: directions %.100q", filter, got)
			}
		}
	})
	t.Run("count", func(t *testing.T) {
		own := startCapture(t, client, "--count", "5")
		load()
		if code, err := own.Wait(netlab.Patience); code != 0 || err != nil {
			t.Fatalf("status %d, %v: %s", code, err, own.Log())
		}
		if n, _, _ := own.told(t); n != 5 {
			t.Errorf("%d packets told", n)
		}
		if segs, err := decode.ReadFile(own.file); err != nil || len(segs) > 5 || len(segs) == 0 {
			t.Errorf("%d TCP segments, %v", len(segs), err)
		}
	})
	t.Run("duration", func(t *testing.T) {
		watch := netlab.StartStopwatch()
		own := startCapture(t, client, "--duration", "500ms")
		code, err := own.Wait(netlab.Patience)
		if wall, self := watch.Took(); code != 0 || err != nil || wall < 400*time.Millisecond || self > 4*time.Second {
			t.Fatalf("status %d, %v after %v, %v of it by itself: %s", code, err, wall, self, own.Log())
		}
		own.told(t)
	})
	t.Run("stdout", func(t *testing.T) {
		out, err := client.command("capture", "-w", "-", "--duration", "300ms")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decode.Read(bytes.NewReader(out)); err != nil {
			t.Error(err)
		}
	})
	t.Run("wrong usage", func(t *testing.T) {
		for _, args := range [][]string{{}, {"-w", "-", "--keys"}, {"-w", "x", "--duration", "-1s"}, {"-w", "x", "y"}} {
			o := lab.Client.Run(t.Context(), append([]string{innertunBinary(t), "capture", "--control", client.control}, args...)...)
			if o.Code != 2 || o.Stderr == "" {
				t.Errorf("%q: status %d: %s", args, o.Code, o.Stderr)
			}
		}
		for _, args := range [][]string{{"-w", "/dev/null"}, {"-w", filepath.Join(t.TempDir(), "no", "x")}} {
			o := lab.Client.Run(t.Context(), append([]string{innertunBinary(t), "capture", "--control", client.control}, args...)...)
			if o.Code != 1 {
				t.Errorf("%q: status %d: %s", args, o.Code, o.Stderr)
			}
		}
		name := filepath.Join(t.TempDir(), "x")
		o := lab.Client.Run(t.Context(), innertunBinary(t), "capture", "-w", name, "--control", client.control+"-not")
		if _, err := os.Stat(name); o.Code != 1 || !strings.Contains(o.Stderr, "no daemon is listening") || !os.IsNotExist(err) {
			t.Errorf("no daemon: status %d: %s; %v", o.Code, o.Stderr, err)
		}
	})
	t.Run("too many", func(t *testing.T) {
		var all []*capturing
		for range 4 {
			all = append(all, startCapture(t, client))
		}
		o := lab.Client.Run(t.Context(), innertunBinary(t), "capture", "-w", filepath.Join(t.TempDir(), "x"), "--control", client.control)
		if o.Code != 1 || !strings.Contains(o.Stderr, "4 captures are running already") {
			t.Errorf("a fifth capture: status %d: %s", o.Code, o.Stderr)
		}
		all[0].Kill() // the daemon finds out by itself
		load()
		client.waitIdle(t) // or what follows begins with the end of this connection
		netlab.WaitFor(t, netlab.Patience, "room for another capture", func() error {
			if _, err := client.command("capture", "-w", filepath.Join(t.TempDir(), "x"), "--count", "0", "--duration", "100ms"); err != nil {
				return err
			}
			return nil
		})
		for _, c := range all[1:] {
			if n, _, _ := c.end(t); n == 0 {
				t.Error("no packets")
			}
		}
	})
	t.Run("the daemon ends", func(t *testing.T) {
		own := startCapture(t, client)
		load()
		client.waitIdle(t)
		if code, err := client.Stop(); code != 0 || err != nil {
			t.Errorf("daemon: status %d, %v", code, err)
		}
		if code, err := own.Wait(netlab.Patience); code != 0 || err != nil {
			t.Fatalf("capture: status %d, %v: %s", code, err, own.Log())
		}
		own.told(t)
		segs, err := decode.ReadFile(own.file)
		if err != nil {
			t.Fatal(err)
		}
		decrypt(t, segs, client, f)
	})
	t.Run("the daemon is killed", func(t *testing.T) {
		client := startRun(t, lab.Client, clientConfig)
		own := startCapture(t, client)
		load()
		client.waitIdle(t)
		netlab.WaitFor(t, netlab.Patience, "the capture to hold both ends of the connection", func() error {
			segs, err := decode.ReadFile(own.file)
			if err != nil {
				return err
			}
			flows, _ := keptFlows(segs)
			for _, d := range []decode.Direction{decode.AtoB, decode.BtoA} {
				if len(flows) != 1 {
					return fmt.Errorf("%d connections", len(flows))
				}
				if st, err := flows[0].Reassemble(d); err != nil || !st.FIN {
					return fmt.Errorf("no FIN, %v", err)
				}
			}
			return nil
		})
		client.Kill()
		if code, err := own.Wait(netlab.Patience); code != 0 || err != nil || !strings.Contains(own.Log(), "the daemon ended") {
			t.Fatalf("capture: status %d, %v: %s", code, err, own.Log())
		}
		if segs, err := decode.ReadFile(own.file); err != nil {
			t.Error(err)
		} else {
			decrypt(t, segs, client, f)
		}
		down(t, lab.Client, client.control)
	})
}
