package boltfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
)

// DamageError says that a file is not what was written to it.
type DamageError struct {
	Path     string
	Problems []string       // the first few, most telling first
	Intact   map[string]int // records per bucket that still pass their checksum
}

func (e *DamageError) Error() string {
	msg := fmt.Sprintf("%s is damaged: %s", e.Path, strings.Join(e.Problems, "; "))
	if len(e.Intact) == 0 {
		return msg
	}
	var intact []string
	for _, bucket := range slices.Sorted(maps.Keys(e.Intact)) {
		intact = append(intact, fmt.Sprintf("%d in %s", e.Intact[bucket], bucket))
	}
	return msg + " (records still intact: " + strings.Join(intact, ", ") + ")"
}

// The layout of a bbolt file, version 2, in the byte order of the machine. A page
// begins with its own number, its kind, the count of its elements and the count of
// further pages it runs over.
const (
	pageHeader = 16
	element    = 16 // the header of one element, branch or leaf
	metaSize   = 64

	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10

	magic       = 0xED0CDAED
	version     = 2
	noFreelist  = ^uint64(0)
	maxProblems = 3
)

var order = binary.NativeEndian

// walk reads every page of the file that is in use, trusting none, and reports what
// is wrong as a *DamageError. It finds any change to the live data: see
// TestEveryFlippedByte.
func walk(path string, data []byte) error {
	w := &walker{data: data, found: map[string]*totals{}, promised: map[string]*totals{}}
	w.file()
	if len(w.problems) == 0 {
		return nil
	}
	e := &DamageError{Path: path, Problems: w.problems, Intact: map[string]int{}}
	for bucket, found := range w.found {
		e.Intact[bucket] = int(found.count)
	}
	return e
}

type walker struct {
	data     []byte
	pageSize uint64
	used     []bool // pages accounted for, up to the high-water mark
	problems []string
	found    map[string]*totals // what the buckets hold
	promised map[string]*totals // what they say they hold
}

func (w *walker) problem(format string, args ...any) {
	if len(w.problems) < maxProblems {
		w.problems = append(w.problems, fmt.Sprintf(format, args...))
	}
}

// meta is a root of the file. There are two, written in turn: one of the commit
// before and one of the last.
type meta struct{ pageSize, root, freelist, pages, txid uint64 }

func readMeta(page []byte) (m meta, ok bool) {
	if len(page) < pageHeader+metaSize {
		return meta{}, false
	}
	b := page[pageHeader : pageHeader+metaSize]
	h := fnv.New64a()
	h.Write(b[:metaSize-8])
	if order.Uint32(b) != magic || order.Uint32(b[4:]) != version || order.Uint64(b[56:]) != h.Sum64() {
		return meta{}, false
	}
	return meta{
		pageSize: uint64(order.Uint32(b[8:])),
		root:     order.Uint64(b[16:]),
		freelist: order.Uint64(b[32:]),
		pages:    order.Uint64(b[40:]),
		txid:     order.Uint64(b[48:]),
	}, true
}

// metas finds both roots. The place of the second depends on the page size, which
// is in the first; if that is gone, every size that bbolt uses is tried.
func (w *walker) metas() (last meta, ok bool) {
	first, ok0 := readMeta(w.data)
	sizes := []uint64{first.pageSize}
	if !ok0 {
		sizes = sizes[:0]
		for size := uint64(1 << 10); size <= 1<<16; size *= 2 {
			sizes = append(sizes, size)
		}
	}
	var second meta
	var ok1 bool
	for _, size := range sizes {
		if size < uint64(len(w.data)) {
			if second, ok1 = readMeta(w.data[size:]); ok1 {
				break
			}
		}
	}
	switch {
	case !ok0 && !ok1 && len(w.data) == 0:
		w.problem("it is empty")
	case !ok0 && !ok1:
		w.problem("it does not begin like a bbolt file")
	case !ok0 || !ok1:
		w.problem("one of its two roots is broken, and it may be the newer one")
	case first.pageSize != second.pageSize || max(first.txid, second.txid)-min(first.txid, second.txid) != 1:
		w.problem("its two roots do not belong together")
	}
	if ok1 && (!ok0 || second.txid > first.txid) {
		return second, true
	}
	return first, ok0
}

func (w *walker) file() {
	m, ok := w.metas()
	if !ok {
		return
	}
	size := uint64(len(w.data))
	if m.pageSize < 1<<10 || m.pageSize > 1<<16 || m.pageSize&(m.pageSize-1) != 0 {
		w.problem("its page size is %d", m.pageSize)
		return
	}
	w.pageSize = m.pageSize
	// bbolt makes room for one page more than it uses.
	if size%m.pageSize != 0 || m.pages >= size/m.pageSize {
		w.problem("it is cut short: %d bytes, where whole pages of %d and %d of them at least must be", size, m.pageSize, m.pages+1)
	}
	w.used = make([]bool, min(m.pages, size/m.pageSize))
	for id := range w.used[:min(2, len(w.used))] {
		w.used[id] = true
	}
	w.tree(m.root, nil, nil, w.bucket)
	if m.freelist == noFreelist {
		w.problem("it has no list of free pages")
	} else {
		w.freelist(m.freelist)
	}
	if i := slices.Index(w.used, false); i >= 0 {
		w.problem("page %d belongs to nothing", i)
	}
	w.compare()
}

// use marks a page as accounted for. A page has one place only.
func (w *walker) use(id uint64) bool {
	if id >= uint64(len(w.used)) {
		w.problem("page %d lies outside of the file", id)
		return false
	}
	if w.used[id] {
		w.problem("page %d has two places", id)
		return false
	}
	w.used[id] = true
	return true
}

// page returns a page with those it runs over.
func (w *walker) page(id uint64) ([]byte, bool) {
	if !w.use(id) {
		return nil, false
	}
	start := id * w.pageSize
	head := w.data[start : start+w.pageSize]
	if order.Uint64(head) != id {
		w.problem("page %d calls itself %d", id, order.Uint64(head))
		return nil, false
	}
	overflow := uint64(order.Uint32(head[12:]))
	for i := range overflow {
		if !w.use(id + 1 + i) {
			return nil, false
		}
	}
	return w.data[start : start+(1+overflow)*w.pageSize], true
}

func (w *walker) freelist(id uint64) {
	p, ok := w.page(id)
	if !ok {
		return
	}
	if order.Uint16(p[8:]) != freelistPage {
		w.problem("page %d is not the list of free pages", id)
		return
	}
	count, ids := uint64(order.Uint16(p[10:])), p[pageHeader:]
	if count == 0xFFFF { // too many for the header: the first element is the count
		count, ids = order.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids)/8) {
		w.problem("the list of free pages does not fit on its page")
		return
	}
	for i := range count {
		w.use(order.Uint64(ids[i*8:]))
	}
}

// tree walks the tree whose root is page id and calls leaf for each leaf element.
// Keys lie in [from, to); nil is no bound.
func (w *walker) tree(id uint64, from, to []byte, leaf func(flags uint32, key, value []byte)) {
	if p, ok := w.page(id); ok {
		w.elements(fmt.Sprintf("page %d", id), p, from, to, leaf)
	}
}

func (w *walker) elements(name string, p, from, to []byte, leaf func(flags uint32, key, value []byte)) {
	if len(p) < pageHeader {
		w.problem("%s is too small", name)
		return
	}
	kind, count := order.Uint16(p[8:]), uint64(order.Uint16(p[10:]))
	if kind != branchPage && kind != leafPage || kind == branchPage && count == 0 {
		w.problem("%s is of no known kind", name)
		return
	}
	if pageHeader+count*element > uint64(len(p)) {
		w.problem("%s says that it has %d elements", name, count)
		return
	}
	for i := range count {
		key, value, ok := cut(p, i, kind)
		if !ok || len(key) == 0 {
			w.problem("%s has a broken element", name)
			return
		}
		if bytes.Compare(key, from) < 0 || i > 0 && bytes.Equal(key, from) || to != nil && bytes.Compare(key, to) >= 0 {
			w.problem("%s has a key out of order", name)
			return
		}
		from = key
		head := p[pageHeader+i*element:]
		if kind == leafPage {
			leaf(order.Uint32(head), key, value)
			continue
		}
		end := to
		if i+1 < count {
			if end, _, ok = cut(p, i+1, kind); !ok {
				w.problem("%s has a broken element", name)
				return
			}
		}
		w.tree(order.Uint64(head[8:]), key, end, leaf)
	}
}

// cut returns the key and, on a leaf, the value of element i. Positions count from
// the start of the element's own header.
func cut(p []byte, i uint64, kind uint16) (key, value []byte, ok bool) {
	start := pageHeader + i*element
	head := p[start:]
	var pos, ksize, vsize uint64
	if kind == branchPage {
		pos, ksize = uint64(order.Uint32(head)), uint64(order.Uint32(head[4:]))
	} else {
		pos, ksize, vsize = uint64(order.Uint32(head[4:])), uint64(order.Uint32(head[8:])), uint64(order.Uint32(head[12:]))
	}
	from := start + pos
	if from+ksize+vsize > uint64(len(p)) {
		return nil, nil, false
	}
	return p[from : from+ksize], p[from+ksize : from+ksize+vsize], true
}

// bucket walks one bucket: an element of the root tree whose value says where the
// bucket's own tree is, or holds it when it is small.
func (w *walker) bucket(flags uint32, key, value []byte) {
	name := string(key)
	if flags != 1 || len(value) < 16 {
		w.problem("%q is not a bucket", name)
		return
	}
	w.found[name] = new(totals)
	record := func(flags uint32, key, value []byte) { w.record(name, flags, key, value) }
	if root := order.Uint64(value); root != 0 {
		w.tree(root, nil, nil, record)
		return
	}
	inline := value[16:]
	if len(inline) >= pageHeader && order.Uint16(inline[8:]) != leafPage {
		w.problem("bucket %s is of no known kind", name)
		return
	}
	w.elements("bucket "+name, inline, nil, nil, record)
}

func (w *walker) record(bucket string, flags uint32, key, sealed []byte) {
	value, ok := unseal(bucket, key, sealed)
	if flags != 0 || !ok {
		w.problem("a record in bucket %s fails its checksum", bucket)
		return
	}
	w.found[bucket].add(sealed)
	if bucket == totalsBucket {
		t := new(totals)
		if !t.decode(value) {
			w.problem("the totals of bucket %s are unreadable", key)
			return
		}
		w.promised[string(key)] = t
	}
}

// compare holds what was found against what each bucket says it holds, which no
// check of single pages can do: a page that lost its last element is a valid page.
func (w *walker) compare() {
	totalsFound := w.found[totalsBucket]
	delete(w.found, totalsBucket)
	if totalsFound == nil {
		w.problem("it is not a file of this program")
	}
	for bucket, found := range w.found {
		promised := w.promised[bucket]
		if promised == nil {
			promised = new(totals) // nothing was ever written to it
		}
		if found.count != promised.count || found.sum != promised.sum {
			w.problem("bucket %s holds %d records of %d", bucket, found.count, promised.count)
		}
	}
	for bucket := range w.promised {
		if w.found[bucket] == nil {
			w.problem("bucket %s is missing", bucket)
		}
	}
}
