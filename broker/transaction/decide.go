package transaction

import "github.com/gantry-mq/gantry/commitlog/record"

// Begin reserves the decision about a half message. The caller then has its
// record appended, and applied, or calls Cancel.
//
// busy is not nil while another decision is under way: it is closed when that
// one is taken or given up, and Begin may be tried again. ErrUnknown; a
// *DecidedError.
func (t *Table) Begin(pos record.Position) (h Half, busy <-chan struct{}, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, err := t.find(pos)
	if err != nil {
		return Half{}, nil, err
	}
	if r.busy != nil {
		return Half{}, r.busy, nil
	}
	r.busy = make(chan struct{})
	return r.Half, nil, nil
}

// Cancel gives up a reservation whose record was not appended.
func (t *Table) Cancel(pos record.Position) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.rows[pos]; r != nil {
		r.release()
		t.kick()
	}
}
