/*-------------------------------------------------------------------------
 *
 * row_form.c
 *	  From the fields of a record straight to the bytes of a heap tuple.
 *
 * What etl_convert() and heap_form_tuple() do one after the other, without
 * the Datums in between.  The bytes are the same.  A record of which one field
 * is not certain, or that has too few fields or too many, is left to
 * etl_convert(), which knows the words for it.
 *
 * Invariants:
 *	- Nothing is written behind the room that the caller gives.
 *	- Bytes between values are zero, as those that heap_form_tuple() leaves.
 *	- No catalog is read and nothing is thrown for what is in a field.
 *
 *-------------------------------------------------------------------------
 */
#include "source/row_form.h"

#include "source/convert_types.h"

#include "access/tupmacs.h"
#include "utils/datum.h"
#include "utils/memutils.h"

/* Values of one row that are not written at once, as a rule. */
#define ROW_CHUNK 8192

/* What a value may take beyond its text: padding, a header, a fixed length. */
#define VALUE_ROOM 48

/* A jsonb value takes so many times its text, at the most. */
#define JSONB_GROWTH 12

/* One column of the table. */
typedef struct RowStep
{
	int field; /* of the record; -1: the same value in each row */
	int16 attlen;
	bool attbyval;
	char attalign;
	bool may_be_short; /* a header of one byte will do */
	bool isnull;
	Datum value;
	EtlColumnConverter column;
} RowStep;

struct EtlRowForm
{
	MemoryContext context;	   /* holds the form */
	MemoryContext row_context; /* of values too large for the chunk */
	int natts;
	int nfields;
	bool has_null;	 /* in each row */
	bool had_null;	 /* in the last one */
	Size fixed_room; /* what a row may take, beyond its text */
	int growth;		 /* how many times its text */
	EtlRowArena arena;
	char *chunk;
	RowStep *steps;			  /* by column */
	HeapTupleHeaderData head; /* of each tuple */
};

static bool init_step(EtlRowForm *form, RowStep *step, Form_pg_attribute att,
					  Datum value, bool isnull);
static char *write_value(const RowStep *step, char *out, const char *limit,
						 Datum value);

/*
 * A form for rows of desc from records of nfields fields, the i-th of which is
 * the column attnums[i]; an invalid attribute number means that the field is
 * ignored.  values[] and isnull[], by attribute number - 1, say what the
 * columns get that no field has.  NULL if some column has values that cannot
 * be formed here.  Lives as long as the current memory context; nothing that is
 * given is needed any more.
 */
EtlRowForm *
etl_row_form_create(TupleDesc desc, const AttrNumber *attnums, int nfields,
					const Datum *values, const bool *isnull)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "etl row form",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old_context = MemoryContextSwitchTo(context);
	EtlRowForm *form = palloc0(sizeof(EtlRowForm));
	bool able = desc->constr == NULL || !desc->constr->has_generated_stored;

	form->context = context;
	form->row_context = AllocSetContextCreate(context, "etl row",
											  ALLOCSET_DEFAULT_SIZES);
	form->natts = desc->natts;
	form->nfields = nfields;
	form->growth = 2;
	form->chunk = palloc(ROW_CHUNK);
	form->arena.chunk_size = ROW_CHUNK;
	form->steps = palloc0(sizeof(RowStep) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
		form->steps[i].field = -1;
	for (int i = 0; i < nfields; i++)
		if (attnums[i] != InvalidAttrNumber)
			form->steps[attnums[i] - 1].field = i;

	form->fixed_room = MAXALIGN(SizeofHeapTupleHeader + BITMAPLEN(desc->natts));
	for (int i = 0; i < desc->natts && able; i++)
		able = init_step(form, &form->steps[i], TupleDescAttr(desc, i),
						 values[i], isnull[i]);
	MemoryContextSwitchTo(old_context);
	if (!able)
	{
		MemoryContextDelete(context);
		return NULL;
	}

	HeapTupleHeaderSetTypeId(&form->head, desc->tdtypeid);
	HeapTupleHeaderSetTypMod(&form->head, desc->tdtypmod);
	HeapTupleHeaderSetNatts(&form->head, desc->natts);
	ItemPointerSetInvalid(&form->head.t_ctid);
	return form;
}

/* Plans one column; false if it cannot be formed. */
static bool
init_step(EtlRowForm *form, RowStep *step, Form_pg_attribute att, Datum value,
		  bool isnull)
{
	step->attlen = att->attlen;
	step->attbyval = att->attbyval;
	step->attalign = att->attalign;
	step->may_be_short = att->attlen == -1 &&
						 att->attstorage != TYPSTORAGE_PLAIN;
	form->fixed_room += VALUE_ROOM;
	if (step->field >= 0)
	{
		etl_column_init_fast(&step->column, att);
		step->column.arena = &form->arena;
		form->fixed_room += Max(step->column.max_chars, 0);
		if (att->atttypid == JSONBOID)
			form->growth = JSONB_GROWTH;
		return step->column.fast != NULL;
	}

	step->isnull = isnull;
	if (isnull)
		form->has_null = true;
	else if (att->attlen == -1)
	{
		step->value = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
		form->fixed_room += VARSIZE_ANY(DatumGetPointer(step->value));
	}
	else if (att->attlen > 0)
	{
		step->value = datumCopy(value, att->attbyval, att->attlen);
		form->fixed_room += att->attlen;
	}
	else
		return false;
	return true;
}

/*
 * So much room is enough for nearly every row whose fields have so many bytes
 * of text.  It is more than a row needs: half of the fixed part is kept back for
 * values of a fixed length.
 */
Size
etl_row_form_room(const EtlRowForm *form, Size text_len)
{
	return 2 * form->fixed_room + form->growth * text_len;
}

/* Sets the head of a tuple; returns where its data begin. */
static inline char *
write_head(const EtlRowForm *form, HeapTupleHeader tuple, bool has_null)
{
	Size len = SizeofHeapTupleHeader;

	memcpy(tuple, &form->head, SizeofHeapTupleHeader);
	if (has_null)
	{
		tuple->t_infomask |= HEAP_HASNULL;
		len += BITMAPLEN(form->natts);
	}
	tuple->t_hoff = MAXALIGN(len);
	memset((char *) tuple + SizeofHeapTupleHeader, 0,
		   tuple->t_hoff - SizeofHeapTupleHeader);
	return (char *) tuple + tuple->t_hoff;
}

/* Is one of the fields null that have a column? */
static bool
any_null(const EtlRowForm *form, const EtlField *fields)
{
	for (int i = 0; i < form->natts; i++)
		if (form->steps[i].field >= 0 &&
			fields[form->steps[i].field].data == NULL)
			return true;
	return false;
}

/*
 * Writes the values of a tuple that has a bitmap of nulls or needs none.
 * Returns the place behind them; NULL if a field is not certain, there is no
 * room, or *has_null had to be set.
 */
static char *
write_values(EtlRowForm *form, const EtlField *fields, HeapTupleHeader tuple,
			 const char *limit, bool *has_null)
{
	char *out = write_head(form, tuple, *has_null);
	bool bitmap = *has_null;
	bool varwidth = false;

	for (int i = 0; i < form->natts; i++)
	{
		const RowStep *step = &form->steps[i];
		char *next = NULL;
		Datum value = step->value;

		if (step->field >= 0)
		{
			const EtlField *field = &fields[step->field];

			if (field->data == NULL)
			{
				*has_null = true;
				if (!bitmap)
					return NULL;
				continue;
			}
			if (step->column.write != NULL)
				next = step->column.write(&step->column, field, out, limit);
			if (next == NULL && !step->column.fast(&step->column, field, &value))
				return NULL;
		}
		else if (step->isnull)
			continue;

		if (next == NULL)
			next = write_value(step, out, limit, value);
		if (next == NULL)
			return NULL;
		out = next;
		varwidth |= step->attlen == -1;
		if (bitmap)
			tuple->t_bits[i >> 3] |= 1 << (i & 7);
	}
	if (varwidth)
		tuple->t_infomask |= HEAP_HASVARWIDTH;
	return out;
}

/*
 * Forms the tuple of a record in room bytes from tuple on, which is MAXALIGNed.
 * Returns its length, or 0 if that cannot be done with certainty: then
 * etl_convert() decides.
 */
uint32
etl_row_form(EtlRowForm *form, const EtlField *fields, int nfields,
			 HeapTupleHeader tuple, Size room)
{
	/* What has a fixed length is written without a look at what is left. */
	const char *limit = (const char *) tuple + room - form->fixed_room;
	bool bitmap = form->has_null;
	bool has_null;
	MemoryContext old_context;
	char *out;

	if (nfields != form->nfields || room < form->fixed_room)
		return 0;

	form->arena.next = form->chunk;
	form->arena.left = ROW_CHUNK;
	form->arena.used = 0;
	if (!form->row_context->isReset)
		MemoryContextReset(form->row_context);
	old_context = MemoryContextSwitchTo(form->row_context);

	/* Rows are like the one before; a row that is not is begun again. */
	if (!bitmap && form->had_null)
		bitmap = any_null(form, fields);
	has_null = bitmap;
	out = write_values(form, fields, tuple, limit, &has_null);
	if (out == NULL && has_null && !bitmap)
		out = write_values(form, fields, tuple, limit, &has_null);
	form->had_null = has_null;
	MemoryContextSwitchTo(old_context);
	if (out == NULL)
		return 0;
	HeapTupleHeaderSetDatumLength(tuple, out - (char *) tuple);
	return out - (char *) tuple;
}

/* The next place of an alignment, with zeros up to it. */
static inline char *
align_out(char *out, char attalign)
{
	memset(out, 0, MAXIMUM_ALIGNOF);
	return (char *) att_align_nominal(out, attalign);
}

/* Writes a value; returns the place behind it, NULL if there is no room. */
static char *
write_value(const RowStep *step, char *out, const char *limit, Datum value)
{
	Size len;

	if (step->attbyval)
	{
		out = align_out(out, step->attalign);
		store_att_byval(out, value, step->attlen);
		return out + step->attlen;
	}
	if (step->attlen > 0)
	{
		out = align_out(out, step->attalign);
		memcpy(out, DatumGetPointer(value), step->attlen);
		return out + step->attlen;
	}

	len = VARSIZE(DatumGetPointer(value));
	if (limit - out < (ptrdiff_t) len + 2 * MAXIMUM_ALIGNOF)
		return NULL;
	if (step->may_be_short && VARATT_CAN_MAKE_SHORT(DatumGetPointer(value)))
	{
		len = VARATT_CONVERTED_SHORT_SIZE(DatumGetPointer(value));
		SET_VARSIZE_SHORT(out, len);
		memcpy(out + 1, VARDATA(DatumGetPointer(value)), len - 1);
		return out + len;
	}
	out = align_out(out, step->attalign);
	memcpy(out, DatumGetPointer(value), len);
	return out + len;
}

/* Frees the form. */
void
etl_row_form_free(EtlRowForm *form)
{
	if (form != NULL)
		MemoryContextDelete(form->context);
}
