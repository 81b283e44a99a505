/*-------------------------------------------------------------------------
 *
 * reject.c
 *	  What is wrong with a row: its category, and its way back to an error.
 *
 *-------------------------------------------------------------------------
 */
#include "base/base.h"

static const char *const category_names[ETL_NUM_CATEGORIES] = {
	[ETL_CATEGORY_STRUCTURE] = "structure",
	[ETL_CATEGORY_ENCODING] = "encoding",
	[ETL_CATEGORY_TYPE] = "type",
	[ETL_CATEGORY_NOT_NULL] = "not_null",
	[ETL_CATEGORY_CHECK] = "check",
	[ETL_CATEGORY_UNIQUE] = "unique",
	[ETL_CATEGORY_FOREIGN_KEY] = "foreign_key",
	[ETL_CATEGORY_RULE] = "rule",
	[ETL_CATEGORY_CONFLICT] = "conflict",
	[ETL_CATEGORY_OTHER] = "other",
};

/* The word that etl_patterns.dead_letter.category holds. */
const char *
etl_category_name(EtlCategory category)
{
	Assert((int) category >= 0 && (int) category < ETL_NUM_CATEGORIES);
	return category_names[category];
}

/*
 * The category of an error that the server raised for a row.  A value that
 * no partition accepts is a check violation by its code, and so it stays.
 */
EtlCategory
etl_category_of_sqlstate(int sqlerrcode)
{
	switch (sqlerrcode)
	{
		case ERRCODE_NOT_NULL_VIOLATION:
			return ETL_CATEGORY_NOT_NULL;
		case ERRCODE_CHECK_VIOLATION:
		case ERRCODE_WITH_CHECK_OPTION_VIOLATION:
			return ETL_CATEGORY_CHECK;
		case ERRCODE_UNIQUE_VIOLATION:
		case ERRCODE_EXCLUSION_VIOLATION:
			return ETL_CATEGORY_UNIQUE;
		case ERRCODE_FOREIGN_KEY_VIOLATION:
			return ETL_CATEGORY_FOREIGN_KEY;
		case ERRCODE_CHARACTER_NOT_IN_REPERTOIRE:
		case ERRCODE_UNTRANSLATABLE_CHARACTER:
			return ETL_CATEGORY_ENCODING;
		case ERRCODE_BAD_COPY_FILE_FORMAT:
			return ETL_CATEGORY_STRUCTURE;
		case ERRCODE_DATATYPE_MISMATCH:
		case ERRCODE_CANNOT_COERCE:
			return ETL_CATEGORY_TYPE;
		default:
			break;
	}
	if (ERRCODE_TO_CATEGORY(sqlerrcode) == ERRCODE_DATA_EXCEPTION)
		return ETL_CATEGORY_TYPE;
	return ETL_CATEGORY_OTHER;
}

/*
 * Describes a caught error.  The reject's strings are those of edata and live
 * as long as it does.
 */
void
etl_reject_from_error(EtlReject *reject, const ErrorData *edata)
{
	reject->category = etl_category_of_sqlstate(edata->sqlerrcode);
	reject->sqlerrcode = edata->sqlerrcode;
	reject->message = edata->message;
	reject->detail = edata->detail;
	reject->column_name = edata->column_name;
	reject->field_value = NULL;
}

/*
 * Throws the error that the reject describes.  Where the row stands is for
 * the caller's error context to say.
 */
void
etl_reject_throw(const EtlReject *reject)
{
	ereport(ERROR,
			(errcode(reject->sqlerrcode), errmsg_internal("%s", reject->message),
			 reject->detail ? errdetail_internal("%s", reject->detail) : 0,
			 reject->column_name ?
				 err_generic_string(PG_DIAG_COLUMN_NAME, reject->column_name) :
				 0));
	pg_unreachable();
}
